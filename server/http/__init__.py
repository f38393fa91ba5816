"""HTTP/1.1, HTTP/2 and WebSockets for an ASGI app, on one listening socket.

Owns sockets and how they end. It serves any ASGI app and knows nothing of this one.
"""

from server.http.accept_loop import CannotListen, HttpServer, Listener, listen
from server.http.connection import HttpOptions
from server.http.connection_limits import raise_file_limit
from server.http.tls import BadCertificate, Tls, local_certificate, open_context

__all__ = [
    "BadCertificate",
    "CannotListen",
    "HttpOptions",
    "HttpServer",
    "Listener",
    "Tls",
    "listen",
    "local_certificate",
    "open_context",
    "raise_file_limit",
]
