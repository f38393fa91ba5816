"""Tests of server/conversations: all pure, no I/O and no clock."""
