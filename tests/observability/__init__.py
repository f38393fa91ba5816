"""StoreStats and log lines: each moves with what it tells of."""
