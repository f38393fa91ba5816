"""Tests of the embedded PostgreSQL with real processes. Each is waited for by its state and ended by its pid."""
