"""The tests of the event store: one contract for both logs, pure modules, and what only Postgres can do."""
