"""Tests of what apps declare."""
