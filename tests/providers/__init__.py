"""Tests of server/providers, and the fake provider that other tests start as a process."""
