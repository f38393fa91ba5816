"""Hints between processes: NOTIFY, off the write path, in batches, free of data.

NOTIFY takes a lock of the whole database at commit, so it has a connection of its own with
synchronous_commit=off and never stands in an append's transaction. Everything here may be lost: a hearer that
was away wakes everybody when it is back, and the safety poll finds what no hint told.
"""

import math
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
import trio

from eventstore.errors import StoreError
from eventstore.log import Hear
from eventstore.postgres.bridge import Connection
from eventstore.postgres.session import Session
from eventstore.postgres.statements import STATEMENTS

NEWER, CLOSED, HERE = "eventstore_newer", "eventstore_closed", "eventstore_here"
PAYLOAD_BYTES = 7_800  # NOTIFY takes less than 8000
PACE = 0.005  # between two batches: bounds the notifications a busy process sends to 200 a second
PING = 5.0
BACKOFF_FIRST, BACKOFF_MOST = 0.05, 2.0
LIFE_PAUSE = 0.2

_PAYLOAD: msgspec.json.Decoder[list[str] | None] = msgspec.json.Decoder(list[str] | None)


class Company:
    """Whether other processes are there to be told of anything. To tell nobody costs as much as to tell many.

    In doubt there are: at the start, and when nothing can be heard. Who comes says so (`HERE`), and is told at
    once that anything may be newer: what it missed before its coming was heard of, it then looks for.
    """

    def __init__(self) -> None:
        self.alone = False
        self._heard_at = -math.inf

    def heard(self) -> bool:
        """Another process was heard. True if that is news."""
        was_alone, self.alone = self.alone, False
        self._heard_at = trio.current_time()
        return was_alone

    def counted(self, others: int) -> None:
        """So many others show a sign of life now."""
        self.alone = others == 0 and trio.current_time() - self._heard_at > 2 * PING

    def lost(self) -> None:
        """Nothing can be heard at present."""
        self.alone = False


class Announcer:
    """Gathers what changed and tells it, one batch at a time, if there is anybody to tell."""

    def __init__(self, session: Session, company: Company) -> None:
        self._session = session
        self._company = company
        self._newer: dict[str, None] = {}
        self._closed = False
        self._any = False
        self._wake = trio.Event()

    def newer(self, streams: Iterable[str]) -> None:
        """To be told: these streams have something newer."""
        if not self._company.alone:
            self._newer.update(dict.fromkeys(streams))
            self._wake.set()

    def any(self) -> None:
        """To be told: any stream may have something newer, and any writer be closed."""
        self._any = True
        self._wake.set()

    def closed(self) -> None:
        """To be told: a writer was closed from outside."""
        if not self._company.alone:
            self._closed = True
            self._wake.set()

    async def serve(self) -> None:
        """Runs for ever. What cannot be told is dropped: hints only."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            newer, self._newer = self._newer, {}
            closed, self._closed = self._closed, False
            any_, self._any = self._any, False
            try:
                await self._tell(CLOSED, [""] if closed or any_ else [])
                await self._tell(NEWER, ["null"] if any_ else list(_payloads(newer)))
            except StoreError:
                await trio.sleep(BACKOFF_MOST * random.uniform(0.1, 0.5))
            await trio.sleep(PACE)

    async def _tell(self, channel: str, payloads: list[str]) -> None:
        if payloads:
            (await self._session.connected()).mark_own()
            await self._session.fetch(STATEMENTS["notify"], channel, payloads)


async def listen(
    session: Session,
    hear: Hear,
    announcer: Announcer,
    company: Company,
    owner: int,
    task_status: trio.TaskStatus[None],
) -> None:
    """Hears for ever: pings, connects again with backoff, and wakes everybody after each gap."""

    def meet() -> None:
        if company.heard():
            announcer.any()  # they were here before we knew, and were told nothing

    def newer(payload: str) -> None:
        meet()
        try:
            hear.newer(_PAYLOAD.decode(payload))
        except msgspec.MsgspecError:  # whoever may connect may say anything here; to look is never wrong
            hear.newer(None)

    def closed(_: str) -> None:
        meet()
        hear.closed()

    def here(_: str) -> None:
        # Always: who comes may not see our sign of life yet (it is just coming back), and think itself alone.
        company.heard()
        announcer.any()

    async def look_around(connection: Connection) -> None:
        ((others,),) = await connection.fetch(STATEMENTS["others"], owner)
        was_alone = company.alone
        company.counted(others)
        if was_alone and not company.alone:
            announcer.any()

    pause = BACKOFF_FIRST
    while True:
        try:
            connection = await session.connected()
            connection.mark_own()
            for channel, heard in ((NEWER, newer), (CLOSED, closed), (HERE, here)):
                await connection.listen(channel, heard)
            await connection.fetch(STATEMENTS["notify"], HERE, [""])
            await look_around(connection)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            # What was said while nobody listened is unheard: everybody looks once.
            hear.newer(None)
            hear.closed()
            pause = BACKOFF_FIRST
            await _hold(connection, look_around)
        except StoreError:
            company.lost()
            session.drop()
            await trio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, BACKOFF_MOST)


async def show_life(session: Session, owner: int, task_status: trio.TaskStatus[None]) -> None:
    """Holds this process's advisory lock for ever: the lock is free as soon as the process is gone."""
    while True:
        try:
            connection = await session.connected()
            await connection.fetch(STATEMENTS["show_life"], owner)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await _hold(connection, _ping)
        except StoreError:
            session.drop()
            # No growing pauses: whoever lives must have shown it before others take it for dead.
            await trio.sleep(LIFE_PAUSE * random.uniform(0.5, 1.0))


async def _hold(connection: Connection, ping: Callable[[Connection], Awaitable[None]]) -> None:
    """Until this very connection is gone: a new one would neither listen nor hold the lock."""
    while True:
        with trio.move_on_after(PING):
            await connection.ended.wait()
            return
        # A connection that a firewall forgot looks alive until it is used.
        await ping(connection)


async def _ping(connection: Connection) -> None:
    await connection.fetch(STATEMENTS["alive"])


def _payloads(streams: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    size = 2
    for stream in streams:
        more = len(msgspec.json.encode(stream)) + 1
        if more + 1 > PAYLOAD_BYTES:
            yield "null"  # too long to be told: everybody looks
            continue
        if part and size + more > PAYLOAD_BYTES:
            yield msgspec.json.encode(part).decode()
            part, size = [], 2
        part.append(stream)
        size += more
    if part:
        yield msgspec.json.encode(part).decode()
