"""Tests of server/runtime and of runs as a process drives them, on the in-memory log and in virtual time."""
