"""What is computed from raw recordings: losses, latencies, percentiles, comparisons, pictures. Pure."""
