"""The listening socket: what is set on it, the connections it accepts inherit.

`TCP_USER_TIMEOUT` (Linux, RFC 5482) is the one way to get rid of a client that takes no byte: hypercorn's
sending is shielded and has no deadline of its own.
"""

import socket
from dataclasses import dataclass

from server.http.tls import Tls

BACKLOG = 1024
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class CannotListen(Exception):
    """The address cannot be had: taken, not of this machine, or not allowed."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket, what is spoken on it, and the address people can use."""

    sock: socket.socket
    host: str
    port: int
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """`http://host:port`, or `https://…`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'' if self.tls is None else 's'}://{host}:{self.port}"


def listen(bind: str, stall_timeout: float, tls: Tls | None = None) -> Listener:
    """Binds `host:port` (port 0 takes a free one). Raises `CannotListen` with the reason."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_timeout * 1000))
            for option, value in KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(f"cannot listen on {bind}: {error.strerror or error}. Set TOKENTAPE_BIND.") from error
    return Listener(sock, host, sock.getsockname()[1], tls)
