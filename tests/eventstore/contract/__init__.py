"""One suite, run on both logs: what it says holds in memory and on Postgres alike."""
