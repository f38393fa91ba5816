"""Snapshots: the state of a conversation or a generation as JSON."""
