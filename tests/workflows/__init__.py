"""Tests of server/workflows: what apps declare as workflows and tools, and the values they pass."""
