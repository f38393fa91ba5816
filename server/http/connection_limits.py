"""How much one server takes on: open files, connections in all and of one address, bytes of answers not taken.

Decides who has to go; the connections know how. The time is an argument wherever it matters.
"""

import ipaddress
import resource
from collections.abc import Iterable
from typing import Protocol

from server import logs

log = logs.get("host")

RESERVED = 200
"""Open files that are no connections: the database, upstreams, logs."""
ROOM_SECONDS = 5.0
"""A connection that has asked nothing for so long may be closed to make room for another."""


def raise_file_limit(connections: int) -> int:
    """Raises the soft limit of open files as far as it may, and returns how many of `connections` then fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning("fewer connections than set: the limit of open files is low", files=soft)
    return max(1, min(connections, soft - RESERVED))


class TokenBucket:
    """`burst` at once, then `rate` a second."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at: float | None = None

    def spend(self, now: float) -> bool:
        """Takes one; False when none is left. `now` is in seconds and never falls."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class ByteBudget:
    """Bytes of answers that wait for their clients, in the whole process."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Counts an answer's bytes; False, and nothing is counted, when there is no room for them.

        One that is larger than the whole budget has room when nothing else is held.
        """
        if self.held and self.held + size > self.most:
            return False
        self.held += size
        return True

    def add(self, size: int) -> None:
        """Counts bytes of an answer that has begun already, whatever is held."""
        self.held += size

    def give(self, size: int) -> None:
        """They have gone out, or nobody wants them any more."""
        self.held -= size


class Counted(Protocol):
    """What the table has to know of a connection."""

    address: str | None

    def close_idle(self) -> None:
        """Ends it, or gives it a last deadline: no request is under way."""
        ...

    def client_gone(self) -> None:
        """Ends it at once."""
        ...


class ConnectionTable:
    """All connections of a server: which wait for a request, and since when.

    Each is idle, asking or busy, in one of the three and only in one: what is in none would never be overdue and
    never make room for another.
    """

    def __init__(
        self,
        most: int,
        most_of_address: int,
        trusted: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network] = (),
    ) -> None:
        self.connections: set[Counted] = set()
        self.refused = 0
        self._most = most
        self._most_of_address = most_of_address
        self._trusted = tuple(trusted)
        self._of_address: dict[str, int] = {}
        # Both in the order in which they began to wait: the first is the oldest.
        self._idle: dict[Counted, float] = {}
        self._asking: dict[Counted, float] = {}
        self._busy: set[Counted] = set()
        self._complaints = TokenBucket(3, 0.1)

    def admit(self, connection: Counted, host: str | None, now: float) -> bool:
        """Takes a new connection in; False when it has to be refused. Ends an idle one for it where that helps."""
        address = self._counted_address(host)
        if address is not None and self._of_address.get(address, 0) >= self._most_of_address:
            if not self._make_room(now, address):
                self._complain(
                    now,
                    "too many connections of one address; if it is a proxy's, add it to TOKENTAPE_TRUSTED_PROXIES",
                    address=address,
                    limit=self._most_of_address,
                )
                return False
        elif len(self.connections) >= self._most and not self._make_room(now, None):
            self._complain(now, "too many connections", limit=self._most)
            return False
        connection.address = address
        self.connections.add(connection)
        if address is not None:
            self._of_address[address] = self._of_address.get(address, 0) + 1
        self._asking[connection] = now
        return True

    def forget(self, connection: Counted) -> None:
        """It has ended, or ends for certain with its task's next turn. What is said of it later is not heard."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._leave(connection)
            self._release(connection)

    def idle(self, connection: Counted, now: float) -> None:
        """Its last answer is complete, and it has asked for nothing more."""
        if connection in self.connections:
            self._leave(connection)
            self._idle[connection] = now

    def asking(self, connection: Counted, now: float) -> None:
        """Some of a request's head has come. Its time runs from the first of it."""
        if connection in self.connections and connection not in self._asking:
            self._leave(connection)
            self._asking[connection] = now

    def busy(self, connection: Counted) -> None:
        """It has a request under way."""
        if connection in self.connections:
            self._leave(connection)
            self._busy.add(connection)

    def state(self, connection: Counted) -> str | None:
        """In which of the three a connection is; None of one that has been forgotten."""
        states = {"idle": self._idle, "asking": self._asking, "busy": self._busy}
        found = [name for name, those in states.items() if connection in those]
        assert len(found) == (connection in self.connections)
        return found[0] if found else None

    def end_overdue(self, now: float, keep_alive: float, head_seconds: float) -> None:
        """Ends those that have been idle, or at their request's head, for too long (seconds)."""
        for waiting, longest in ((self._idle, keep_alive), (self._asking, head_seconds)):
            while waiting:
                connection, since = next(iter(waiting.items()))
                if now - since < longest:
                    break
                self._end(connection, now)

    def end_waiting(self) -> None:
        """Ends all that have no request under way."""
        for connection in [*self._idle, *self._asking]:
            connection.close_idle()

    def make_room(self, now: float) -> None:
        """Ends one that waits, for there are no files left."""
        self._make_room(now, None)

    def _make_room(self, now: float, address: str | None) -> bool:
        """Ends the one that is idle longest; without one, the slowest at its request's head."""
        for waiting, least in ((self._idle, 0.0), (self._asking, ROOM_SECONDS)):
            for connection, since in waiting.items():
                if address is None or connection.address == address:
                    if now - since < least:
                        break
                    # Its place is free now, though its socket is closed only when its task has its turn. So it
                    # must end without a condition: one that lived on, uncounted, would void the limits.
                    connection.client_gone()
                    self.forget(connection)
                    return True
        return False

    def _end(self, connection: Counted, now: float) -> None:
        self.idle(connection, now)  # behind the others, if it needs a moment to end
        connection.close_idle()

    def _leave(self, connection: Counted) -> None:
        self._idle.pop(connection, None)
        self._asking.pop(connection, None)
        self._busy.discard(connection)

    def _release(self, connection: Counted) -> None:
        address = connection.address
        if address is not None:
            left = self._of_address[address] - 1
            if left:
                self._of_address[address] = left
            else:
                del self._of_address[address]

    def _counted_address(self, host: str | None) -> str | None:
        """The address under which a client is counted: of IPv6 its /64, which is one customer's."""
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

    def _complain(self, now: float, why: str, **figures: object) -> None:
        self.refused += 1
        if self._complaints.spend(now):
            log.warning(why, refused=self.refused, **figures)
