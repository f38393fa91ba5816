"""How much one server takes on: open files, connections in all and from one address, bytes of unsent responses.

Decides which connection is ended when a limit is reached; the connection knows how to end. It must not know
sockets or protocols. The time is always an argument, in seconds of a clock that never goes back.
"""

import ipaddress
import resource
from collections.abc import Iterable
from typing import Protocol

from server.observability import logs

log = logs.get("http")

RESERVED = 200
"""Open files that are no clients' connections: the database, providers, logs."""
ROOM_SECONDS = 5.0
"""After so long without a complete request's head, a connection may be ended to make room for another."""


def raise_file_limit(connections: int) -> int:
    """Raises the process's soft limit of open files as far as needed and allowed (RLIMIT_NOFILE).

    Returns how many of the wanted `connections` then fit; at least 1.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning("fewer connections than set: the limit of open files is low", files=soft)
    return max(1, min(connections, soft - RESERVED))


class TokenBucket:
    """A token bucket: `burst` events at once, then `rate` events a second."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at: float | None = None

    def spend(self, now: float) -> bool:
        """Takes a token; False when none is left."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class ByteBudget:
    """How many bytes of responses may wait for their clients, in the whole process.

    `most_of_address`: of them, those that wait for clients of one address. Such a client reads nothing and keeps
    256 streams open, each with a piece of a file; without this bound its one connection takes all there is, and
    everybody else is refused.
    """

    __slots__ = ("held", "held_of", "most", "most_of_address")

    def __init__(self, most: int) -> None:
        self.most = most
        self.most_of_address = most // 4
        self.held = 0
        self.held_of: dict[str, int] = {}

    def of(self, address: str | None) -> "ByteShare":
        """The part of one address. None: of clients that are not counted by their address."""
        return ByteShare(self, address)


class ByteShare:
    """The bytes of responses that wait for the clients of one address. All shares of an address are the same."""

    __slots__ = ("_address", "_budget")

    def __init__(self, budget: ByteBudget, address: str | None) -> None:
        self._budget = budget
        self._address = address

    def take(self, size: int) -> bool:
        """Counts the bytes of a response that has not begun. False, and counts nothing, if there is no room.

        A response that is larger than the whole budget, or share, has room when no other is held.
        """
        budget = self._budget
        own = budget.held_of.get(self._address, 0) if self._address is not None else 0
        if (own and own + size > budget.most_of_address) or (budget.held and budget.held + size > budget.most):
            return False
        self.add(size)
        return True

    def add(self, size: int) -> None:
        """Counts bytes of a response that has begun, even over the budget: it can no longer be refused."""
        budget = self._budget
        budget.held += size
        if self._address is not None:
            budget.held_of[self._address] = budget.held_of.get(self._address, 0) + size
            if not budget.held_of[self._address]:
                del budget.held_of[self._address]

    def give(self, size: int) -> None:
        """The bytes have been sent or dropped."""
        self.add(-size)


class TrackedConnection(Protocol):
    """What the table needs of a connection. The table sets `counted_address`."""

    counted_address: str | None

    def close_idle(self) -> None:
        """Ends the connection at once or at a last deadline. No request is under way."""
        ...

    def client_gone(self) -> None:
        """Ends the connection at once."""
        ...


class ConnectionTable:
    """All connections of a server: which wait for a request, and since when.

    Each connection is in exactly one of three states: idle (between requests), asking (new, or some of a request's
    head has come) or busy (a request is under way). A connection in no state would never be overdue and never be
    ended to make room for another.
    """

    def __init__(
        self,
        most: int,
        most_of_address: int,
        trusted: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network] = (),
    ) -> None:
        self.connections: set[TrackedConnection] = set()
        self.refused = 0
        self._most = most
        self._most_of_address = most_of_address
        self._trusted = tuple(trusted)
        self._of_address: dict[str, int] = {}
        # Both in the order in which the connections began to wait: the first has waited longest.
        self._idle: dict[TrackedConnection, float] = {}
        self._asking: dict[TrackedConnection, float] = {}
        self._busy: set[TrackedConnection] = set()
        self._warnings = TokenBucket(3, 0.1)

    def admit(self, connection: TrackedConnection, host: str | None, now: float) -> bool:
        """Admits a new connection; False if it has to be refused. `host`: the client's IP address.

        When a limit is reached, it first tries to end a connection that waits, to make room.
        """
        address = self._counted_address(host)
        if address is not None and self._of_address.get(address, 0) >= self._most_of_address:
            if not self._make_room(now, address):
                self._warn_refused(
                    now,
                    "too many connections of one address; if it is a proxy's, add it to TOKENTAPE_TRUSTED_PROXIES",
                    address=address,
                    limit=self._most_of_address,
                )
                return False
        elif len(self.connections) >= self._most and not self._make_room(now, None):
            self._warn_refused(now, "too many connections", limit=self._most)
            return False
        connection.counted_address = address
        self.connections.add(connection)
        if address is not None:
            self._of_address[address] = self._of_address.get(address, 0) + 1
        self._asking[connection] = now
        return True

    def forget(self, connection: TrackedConnection) -> None:
        """The connection has ended, or ends in its task's next turn. Later calls about it change nothing."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._leave(connection)
            self._release(connection)

    def idle(self, connection: TrackedConnection, now: float) -> None:
        """The connection's last response is complete, and no further request has begun."""
        if connection in self.connections:
            self._leave(connection)
            self._idle[connection] = now

    def asking(self, connection: TrackedConnection, now: float) -> None:
        """Some of a request's head has come. The limit for a head counts from the first call."""
        if connection in self.connections and connection not in self._asking:
            self._leave(connection)
            self._asking[connection] = now

    def busy(self, connection: TrackedConnection) -> None:
        """The connection has a request under way."""
        if connection in self.connections:
            self._leave(connection)
            self._busy.add(connection)

    def state(self, connection: TrackedConnection) -> str | None:
        """The connection's state: idle, asking or busy; None if it has been forgotten."""
        states = {"idle": self._idle, "asking": self._asking, "busy": self._busy}
        found = [name for name, those in states.items() if connection in those]
        assert len(found) == (connection in self.connections)
        return found[0] if found else None

    def end_overdue(self, now: float, keep_alive: float, head_seconds: float) -> None:
        """Ends the connections that have been idle for `keep_alive`, or asking for `head_seconds`."""
        for waiting, longest in ((self._idle, keep_alive), (self._asking, head_seconds)):
            while waiting:
                connection, since = next(iter(waiting.items()))
                if now - since < longest:
                    break
                self._end(connection, now)

    def end_waiting(self) -> None:
        """Ends all connections that have no request under way."""
        for connection in [*self._idle, *self._asking]:
            connection.close_idle()

    def make_room(self, now: float) -> None:
        """Ends a connection that waits, because the process has no file descriptor left."""
        self._make_room(now, None)

    def _make_room(self, now: float, address: str | None) -> bool:
        """Ends the connection that is idle longest; if none is idle, the one whose head takes longest.

        `address`: only among the connections of that address. Returns whether there was one.
        """
        for waiting, least in ((self._idle, 0.0), (self._asking, ROOM_SECONDS)):
            for connection, since in waiting.items():
                if address is None or connection.counted_address == address:
                    if now - since < least:
                        break
                    # The table gives its place away now, and its task closes the socket in its next turn. So it
                    # has to end unconditionally: a connection that lived on would not be counted any more.
                    connection.client_gone()
                    self.forget(connection)
                    return True
        return False

    def _end(self, connection: TrackedConnection, now: float) -> None:
        self.idle(connection, now)  # at the end of the queue, for it may need a moment to end
        connection.close_idle()

    def _leave(self, connection: TrackedConnection) -> None:
        self._idle.pop(connection, None)
        self._asking.pop(connection, None)
        self._busy.discard(connection)

    def _release(self, connection: TrackedConnection) -> None:
        address = connection.counted_address
        if address is not None:
            left = self._of_address[address] - 1
            if left:
                self._of_address[address] = left
            else:
                del self._of_address[address]

    def _counted_address(self, host: str | None) -> str | None:
        """The address under which a client is counted, None if it is not.

        IPv6 clients are counted by their /64 network, which providers give to one customer.
        """
        if host is None:
            return None
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        if address.is_loopback or any(address in network for network in self._trusted):
            return None
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, 64), strict=False).network_address)
        return str(address)

    def _warn_refused(self, now: float, message: str, **fields: object) -> None:
        self.refused += 1
        if self._warnings.spend(now):
            log.warning(message, refused=self.refused, **fields)
