"""One log on every transport: SSE, NDJSON, JSON pages and long poll, WebSocket."""
