"""The edge of a real server: how connections end, what HTTP/1.1 demands, and what bounds what clients can hold."""
