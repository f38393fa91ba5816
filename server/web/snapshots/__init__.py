"""Snapshots: the state of a conversation, a generation or a webhook as JSON."""
