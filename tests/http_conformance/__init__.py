"""A real server over HTTP, from outside: how connections end, what the RFCs demand, and its limits."""
