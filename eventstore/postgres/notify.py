"""Notifications between processes (LISTEN/NOTIFY), and the lock by which a process shows that it is alive.

A notification carries names of streams and no data. Any of them may be lost: a process that could not listen wakes
all of its readers once it listens again, and the store's safety poll finds what no notification told.

NOTIFY takes a lock on the whole database at commit. So it is sent on a connection of its own, in batches, with
synchronous_commit off, and never in an append's transaction. This file knows no events and no retries of calls.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

import msgspec
import trio

from eventstore.backend import Listener
from eventstore.db_retry import pause_before_retry
from eventstore.errors import StoreError
from eventstore.postgres.asyncpg_trio import Connection
from eventstore.postgres.db_connection import STATEMENTS, ReconnectingConnection

NEWER, CLOSED, HERE = "eventstore_newer", "eventstore_closed", "eventstore_here"
"""The channels. `NEWER`: streams with newer events, as a JSON array, or null for any. `CLOSED`: a writer was
closed. `HERE`: a process has begun to listen."""
PAYLOAD_BYTES: Final = 7_800
"""Most bytes of one payload; NOTIFY takes less than 8,000 (PostgreSQL documentation, NOTIFY)."""
BATCH_PAUSE: Final = 0.005
"""Seconds between two batches: a busy process sends at most 200 a second."""
PING_SECONDS: Final = 5.0
"""How often an idle connection is checked. One that a firewall has dropped looks alive until it is used."""
MAX_PAUSE: Final = 2.0
"""Between two tries to listen or to notify."""
MAX_LIVENESS_PAUSE: Final = 0.2
"""Between two tries to take the liveness lock. Short: a living process must have its lock again before the others
take it for dead (`SUSPECT_SECONDS` of the server)."""

_PAYLOAD: Final = msgspec.json.Decoder(list[str] | None)


class Peers:
    """Whether other processes listen. If there are none, nothing is sent: one NOTIFY costs as much as many.

    In doubt there are some: at the start, and while this process cannot listen. A process that begins to listen
    sends `HERE`. The others answer that any stream may be newer, so that it reads what was appended before they
    knew of it.
    """

    def __init__(self) -> None:
        self.none = False
        self._heard_at = -math.inf

    def heard(self) -> bool:
        """Another process sent something. Returns whether there seemed to be none until now."""
        seemed_none, self.none = self.none, False
        self._heard_at = trio.current_time()
        return seemed_none

    def counted(self, others: int) -> None:
        """`others` processes hold a liveness lock now. One that was heard lately may be about to take its lock."""
        self.none = others == 0 and trio.current_time() - self._heard_at > 2 * PING_SECONDS

    def unknown(self) -> None:
        """This process cannot listen at present."""
        self.none = False


class Notifier:
    """Collects what changed and sends it to the other processes, one batch at a time, if there are any."""

    def __init__(self, connection: ReconnectingConnection, peers: Peers) -> None:
        self._connection = connection
        self._peers = peers
        self._newer: dict[str, None] = {}
        self._closed = False
        self._anything = False
        self._pending = trio.Event()

    def newer(self, streams: Iterable[str]) -> None:
        """To send: these streams have newer events."""
        if not self._peers.none:
            self._newer.update(dict.fromkeys(streams))
            self._pending.set()

    def anything(self) -> None:
        """To send: any stream may have newer events, and any writer may be closed."""
        self._anything = True
        self._pending.set()

    def closed(self) -> None:
        """To send: a writer was closed by somebody else."""
        if not self._peers.none:
            self._closed = True
            self._pending.set()

    async def serve(self) -> None:
        """Sends batches until it is cancelled. A batch that cannot be sent is dropped."""
        failures = 0
        while True:
            await self._pending.wait()
            self._pending = trio.Event()
            newer, self._newer = self._newer, {}
            closed, self._closed = self._closed, False
            anything, self._anything = self._anything, False
            try:
                await self._notify(CLOSED, [""] if closed or anything else [])
                await self._notify(NEWER, ["null"] if anything else list(_payloads(newer)))
                failures = 0
            except StoreError:
                failures += 1
                await trio.sleep(pause_before_retry(failures, MAX_PAUSE, jitter=True))
            await trio.sleep(BATCH_PAUSE)

    async def _notify(self, channel: str, payloads: list[str]) -> None:
        if payloads:
            (await self._connection.connected()).mark_own()
            await self._connection.fetch(STATEMENTS["notify"], channel, payloads)


async def listen(
    connection: ReconnectingConnection,
    listener: Listener,
    notifier: Notifier,
    peers: Peers,
    owner: int,
    task_status: trio.TaskStatus[None],
) -> None:
    """Listens until it is cancelled, connects again after each loss, and then reports that anything may be
    newer."""

    def note_peer() -> None:
        if peers.heard():
            notifier.anything()  # until now this process sent them nothing

    def on_newer(payload: str) -> None:
        note_peer()
        try:
            listener.newer(_PAYLOAD.decode(payload))
        except msgspec.MsgspecError:  # any role that can connect may send any payload
            listener.newer(None)

    def on_closed(_: str) -> None:
        note_peer()
        listener.closed()

    def on_here(_: str) -> None:
        # Answered even if the sender is known: it may not see our liveness lock, which we may be taking again just
        # now, and would then send nothing because it believes that it is alone.
        peers.heard()
        notifier.anything()

    async def count_peers(current: Connection) -> None:
        ((others,),) = await current.fetch(STATEMENTS["count_other_processes"], owner)
        seemed_none = peers.none
        peers.counted(others)
        if seemed_none and not peers.none:
            notifier.anything()

    failures = 0
    while True:
        try:
            current = await connection.connected()
            current.mark_own()
            for channel, callback in ((NEWER, on_newer), (CLOSED, on_closed), (HERE, on_here)):
                await current.listen(channel, callback)
            await current.fetch(STATEMENTS["notify"], HERE, [""])
            await count_peers(current)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            # What was sent while this process did not listen is lost, so every reader reads once.
            listener.newer(None)
            listener.closed()
            failures = 0
            await _hold(current, count_peers)
        except StoreError:
            peers.unknown()
            connection.disconnect()
            failures += 1
            await trio.sleep(pause_before_retry(failures, MAX_PAUSE, jitter=True))


async def hold_liveness_lock(
    connection: ReconnectingConnection, owner: int, task_status: trio.TaskStatus[None]
) -> None:
    """Holds the advisory lock `owner` until it is cancelled. Postgres frees it when the process is gone."""
    failures = 0
    while True:
        try:
            current = await connection.connected()
            await current.fetch(STATEMENTS["hold_liveness_lock"], owner)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            failures = 0
            await _hold(current, _ping)
        except StoreError:
            connection.disconnect()
            failures += 1
            await trio.sleep(pause_before_retry(failures, MAX_LIVENESS_PAUSE, jitter=True))


async def _hold(current: Connection, ping: Callable[[Connection], Awaitable[None]]) -> None:
    """Pings this very connection until it is gone. A new one would neither listen nor hold the lock."""
    while True:
        with trio.move_on_after(PING_SECONDS):
            await current.ended.wait()
            return
        await ping(current)


async def _ping(current: Connection) -> None:
    await current.fetch(STATEMENTS["alive"])


def _payloads(streams: Iterable[str]) -> Iterator[str]:
    """The names as JSON arrays of at most `PAYLOAD_BYTES`; null (any stream) for a name that is too long for
    one."""
    part: list[str] = []
    size = 2
    for stream in streams:
        more = len(msgspec.json.encode(stream)) + 1
        if more + 1 > PAYLOAD_BYTES:
            yield "null"
            continue
        if part and size + more > PAYLOAD_BYTES:
            yield msgspec.json.encode(part).decode()
            part, size = [], 2
        part.append(stream)
        size += more
    if part:
        yield msgspec.json.encode(part).decode()
