"""Tests of the providers, and the fake provider that other tests start as a process."""
