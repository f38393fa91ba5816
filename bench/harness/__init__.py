"""What the benchmarks run on: PostgreSQL, server processes, child processes, and the resources that each uses."""
