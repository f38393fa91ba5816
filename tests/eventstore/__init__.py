"""Tests of the event store: one contract for both backends, pure modules, and what only Postgres can do."""
