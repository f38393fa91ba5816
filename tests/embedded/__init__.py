"""Tests of the embedded PostgreSQL: real processes, each waited for by its state, each ended by its pid."""
