"""How connections come in: the listening socket, the accept loop, and what hypercorn needs around it.

Owns sockets and their ends. It serves any ASGI app and knows nothing of this one.
"""

from server.http.accept_loop import Host
from server.http.certificates import local_certificate
from server.http.listener import CannotListen, Listener, listen
from server.http.tls import BadCertificate, Tls, open_context

__all__ = [
    "BadCertificate",
    "CannotListen",
    "Host",
    "Listener",
    "Tls",
    "listen",
    "local_certificate",
    "open_context",
]
