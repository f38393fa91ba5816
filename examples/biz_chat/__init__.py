"""A sales coach: alone over server-sent events, two together over a WebSocket."""
