"""The contract of the event store: one suite of tests that runs in memory and on Postgres."""
