"""The store on a real database that restarts, kills connections, loses notifications or cannot be reached."""
