"""HTTP/2 (RFC 9113) above h2: a connection, its streams, and how their bytes are sent."""
