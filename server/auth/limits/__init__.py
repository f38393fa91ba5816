"""How much callers may use: requests, readers, runs, tokens, cost; of each key, user and tenant."""
