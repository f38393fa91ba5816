"""A connection's one scope, and what all connections share.

Whatever ends a connection (its client, a failed write, the idle time, a limit, the server's stop) cancels its
scope. So no task of it can wait for something that only another of its tasks would bring.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from server.errors import Problem
from server.http.asgi import Address, App, encode_problem
from server.http.connection_limits import ByteBudget, ConnectionTable
from server.http.transport import Transport

GRACE_SECONDS = 3.0
"""How long an app may still run when its client has sent its last byte and nothing else is known of it."""
LINGER_SECONDS = 2.0
"""How long a client that is still sending may take to read our last words, before the socket is closed."""
LINGER_BYTES = 32 * 1_048_576

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The limits of a server. Times are in seconds.

    `keep_alive` bounds the quiet between requests, `head_seconds` the time for a request's head,
    `stall_timeout` how long a large answer may be held for a client that takes none of it. Clients of
    `trusted_proxies` and of this machine are not counted by address.
    """

    websocket_bytes: int = 1_048_576
    keep_alive: float = 75.0
    head_seconds: float = 20.0
    stall_timeout: float = 120.0
    max_connections: int = 12_000
    max_connections_per_address: int = 1_000
    trusted_proxies: tuple[Network, ...] = ()
    unsent_bytes: int = 64 * 1_048_576
    ping_seconds: float = 20.0
    encode_problem: Callable[[Problem], bytes] = encode_problem


@dataclass(slots=True)
class Serving:
    """What the connections of one server share. `closing` is true from the beginning of the stop."""

    app: App
    options: HttpOptions
    table: ConnectionTable
    budget: ByteBudget
    closing: bool = field(default=False)


class Speaker(Protocol):
    """The protocol that is spoken on a connection."""

    def client_finished(self) -> None:
        """The client sends nothing more."""
        ...

    def close_idle(self) -> None:
        """Ends the connection: no request is under way."""
        ...

    def begin_close(self) -> None:
        """The server stops: what is under way may finish, nothing new is taken."""
        ...


class Connection:
    """One accepted connection. `finished` is true when the client has sent its last byte."""

    __slots__ = ("address", "client", "finished", "scope", "secure", "server", "serving", "speaker", "transport")

    def __init__(self, serving: Serving, client: Address | None, server: Address | None, *, secure: bool) -> None:
        self.serving = serving
        self.client = client
        self.server = server
        self.secure = secure
        self.address: str | None = None  # under which it is counted; None: exempt
        self.finished = False
        self.scope = trio.CancelScope()
        self.speaker: Speaker | None = None
        self.transport: Transport

    def client_finished(self) -> None:
        """From the watch: the client has sent its last byte."""
        self.finished = True
        if self.speaker is not None:
            self.speaker.client_finished()

    def client_gone(self) -> None:
        """From the watch or a failed write: nobody is there any more."""
        self.scope.cancel()

    def close_idle(self) -> None:
        """Ends a connection on which nothing is under way."""
        if self.speaker is None:
            self.scope.cancel()
        else:
            self.speaker.close_idle()

    def begin_close(self) -> None:
        """The server stops."""
        if self.speaker is None:
            self.scope.cancel()
        else:
            self.speaker.begin_close()

    def expire(self) -> None:
        """Gives what runs a last moment."""
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + GRACE_SECONDS)
