"""Tests of what a process does while it serves, on the in-memory log and under virtual time."""
