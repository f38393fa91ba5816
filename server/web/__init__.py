"""HTTP and WebSocket: one file a transport, and what they share. Quart on Trio; no SQL, no providers."""
