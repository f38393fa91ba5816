"""Tests of the generation room: the pure table, fold and decisions, and the runs a supervisor owns."""
