"""Tests of server/generations: the supervisor, a run's writes and reads of the log, and its failures."""
