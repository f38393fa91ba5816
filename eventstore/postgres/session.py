"""A connection that comes back: connects when first used, and again after it was lost.

One statement at a time: who asks meanwhile waits for its turn. It never sends a statement twice; whoever asked
decides about that. It knows no SQL of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from eventstore.postgres.bridge import Bridge, Connection, Locked, Lost, Refused, Row
from eventstore.postgres.dialing import Identity, dial

# In force on every connection, and looked up after each is made (`dialing`). The server gives up by itself
# before the client does, so that a paused or cut client holds no lock for long.
GUARDS: Mapping[str, str] = {
    "search_path": "eventstore",
    "default_transaction_isolation": "read committed",  # append() needs a fresh snapshot for each statement
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "statement_timeout": "20s",
    "idle_in_transaction_session_timeout": "5s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
    # All statements go by index. Planned while the tables were small, they would read them whole, and keep to that
    # plan until the next ANALYZE, however large the tables have become.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
COMMAND_TIMEOUT = 25.0


@dataclass(slots=True)
class Session:
    """One reconnecting connection. `purpose` is what pg_stat_activity shows as its name."""

    bridge: Bridge
    dsn: str
    purpose: str
    settings: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 5.0
    command_timeout: float = COMMAND_TIMEOUT
    connection: Connection | None = None
    established: bool = False
    """Whether the database took us once. From then on a refused connection (a role that is being changed, a
    database that is being renamed) is one that is lost, and tried again."""
    meet: Callable[["Session", Identity], None] | None = None
    """Told what each new connection is a connection to. It may raise `Lost`: then another host is tried."""
    identity: Identity | None = None
    """What the connection is a connection to."""
    _turn: trio.Lock = field(default_factory=trio.Lock, init=False, repr=False)

    async def connected(self) -> Connection:
        """The connection, made anew where there is none. Raises `Lost`, or `Refused` (a wrong password, say)."""
        if self.connection is None or self.connection.ended.is_set():
            try:
                made, identity = await dial(
                    self.bridge,
                    self.dsn,
                    self.purpose,
                    {**GUARDS, **self.settings},
                    timeout=self.connect_timeout,
                    command_timeout=self.command_timeout,
                    probe=not self.established,
                    accept=self._accept,
                )
            except Refused as error:
                if self.established:
                    raise Lost(f"the database does not take us any more: {error}") from error
                raise
            # Kept at once: whoever is cancelled from here on leaves a connection that is dropped with the session.
            self.connection, self.identity = made, identity
        return self.connection

    def _accept(self, identity: Identity) -> None:
        if self.meet is not None:
            self.meet(self, identity)

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """All rows. After `Lost` the connection is dropped: the next call makes a new one."""
        try:
            self._turn.acquire_nowait()  # nearly always free; to wait for it would give everybody else a turn
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            connection = await self.connected()
            return await connection.fetch(sql, *values)
        except Locked:
            raise  # the server's answer, and the connection is as it was
        except (Lost, trio.Cancelled):
            # A cancelled statement may still be under way on the connection; nobody may meet its answer.
            self.drop()
            raise
        except Refused as error:
            if error.sqlstate.startswith(("28", "3D")):
                self.drop()
            raise
        finally:
            self._turn.release()

    def drop(self) -> None:
        """Ends the connection at once."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None
