"""One server process: its services started and stopped in order, and the database that it uses."""
