"""How connections come in: the listening socket, the accept loop, and what hypercorn needs around it.

Owns sockets and their ends. It serves any ASGI app and knows nothing of this one.
"""

from server.host.host import Host
from server.host.listening import CannotListen, Listener, listen

__all__ = ["CannotListen", "Host", "Listener", "listen"]
