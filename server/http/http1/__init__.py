"""HTTP/1.1 (RFC 9112): the parser of requests, a connection, and one request with its response."""
