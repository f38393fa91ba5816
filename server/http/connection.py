"""An accepted connection and its one cancel scope, and what all connections of a server share.

Whatever ends a connection cancels its scope: its client leaves, a write fails, it is idle for too long, a limit is
reached, the server stops. So no task of a connection can go on waiting for what only another of its tasks would
bring. It must not know a protocol: `HttpConnection` is what HTTP/1.1 and HTTP/2 have in common.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from server.http.asgi import App, SocketAddress, encode_problem
from server.http.connection_limits import ByteBudget, ByteShare, ConnectionTable
from server.http.transport import Transport
from server.problem import Problem

GRACE_SECONDS = 3.0
"""How long an app may go on when its client has sent its last byte, and may still be reading or may have left."""
LINGER_SECONDS = 2.0
"""How long a client that is still sending may take to read the last response, before its socket is closed."""
LINGER_BYTES = 32 * 1_048_576
"""How much of what such a client still sends is read and dropped meanwhile."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The limits of a server. Times are in seconds, sizes in bytes.

    `websocket_bytes`: of one message from a client. `keep_alive`: how long a connection may be idle between
    requests. `head_seconds`: how long a request's head may take to arrive. `stall_timeout`: how long a response
    may be held for a client that takes none of it. `max_connections_per_address` does not count clients on this
    machine and in `trusted_proxies`. `unsent_bytes`: of responses that wait for their clients, in the whole
    process. `ping_seconds`: how long a WebSocket may be silent before it is pinged.
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
class ServerState:
    """What the connections of one server share. `closing` is true as soon as the server begins to stop."""

    app: App
    options: HttpOptions
    table: ConnectionTable
    budget: ByteBudget
    closing: bool = False


class WakeSignal:
    """Wakes the tasks that wait for a change. It holds a `trio.Event` only while a task waits.

    Streams and WebSockets have one each, and mostly nobody waits: an event for each would cost memory for nothing.
    A waiter checks its condition again after `wait` returns.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: trio.Event | None = None

    async def wait(self) -> None:
        """Waits for the next `wake`."""
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()

    def wake(self) -> None:
        """Wakes all tasks that wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None


class HttpConnection(Protocol):
    """HTTP/1.1 or HTTP/2 on an accepted connection."""

    def client_finished(self) -> None:
        """The client sends nothing more (FIN)."""
        ...

    def close_idle(self) -> None:
        """Ends the connection, on which no request is under way."""
        ...

    def begin_close(self) -> None:
        """The server stops: requests under way may finish, new ones are not taken."""
        ...


class AcceptedConnection:
    """One accepted connection.

    `http` is None until the TLS handshake is over. `finished`: the client has sent its last byte.
    `counted_address`: the address under which the limits count the connection; None if they do not count it.
    """

    __slots__ = (
        "client_address",
        "counted_address",
        "finished",
        "http",
        "scope",
        "secure",
        "server",
        "server_address",
        "transport",
    )

    def __init__(
        self,
        server: ServerState,
        client_address: SocketAddress | None,
        server_address: SocketAddress | None,
        *,
        secure: bool,
    ) -> None:
        self.server = server
        self.client_address = client_address
        self.server_address = server_address
        self.secure = secure
        self.counted_address: str | None = None
        self.finished = False
        self.scope = trio.CancelScope()
        self.http: HttpConnection | None = None
        self.transport: Transport

    @property
    def budget(self) -> ByteShare:
        """Counts the bytes of responses that wait for this client."""
        return self.server.budget.of(self.counted_address)

    def client_finished(self) -> None:
        """The disconnect watcher has seen that the client has sent its last byte."""
        self.finished = True
        if self.http is not None:
            self.http.client_finished()

    def client_gone(self) -> None:
        """The disconnect watcher or a failed write has seen that the client has left."""
        self.scope.cancel()

    def close_idle(self) -> None:
        """Ends a connection on which no request is under way."""
        if self.http is None:
            self.scope.cancel()
        else:
            self.http.close_idle()

    def begin_close(self) -> None:
        """The server stops."""
        if self.http is None:
            self.scope.cancel()
        else:
            self.http.begin_close()

    def expire(self) -> None:
        """Ends the connection after the grace period."""
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + GRACE_SECONDS)
