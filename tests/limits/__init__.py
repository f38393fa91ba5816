"""Limits of callers: how they are written, windows, counts of several servers, and what clients are told."""
