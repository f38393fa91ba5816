"""Tests of the settings and of the form of log lines."""
