"""What is made of raw recordings: frames, losses, percentiles, tables, pictures. Pure; no I/O, no processes."""
