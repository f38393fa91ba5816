"""What a real database does to the store: restarts, killed sessions, lost hints, no database at all."""
