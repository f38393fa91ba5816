"""In-memory backends that are slow, lose answers or lose notifications, as a real backend may towards its callers.

`Wrapped` passes every call through one method, which the others override.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import TypeVar

import trio

from eventstore import Append, Event, Head, OpenWriter, Place, Snapshot, StreamRow, WriterState
from eventstore.backend import Backend, Listener, Outcome, ReadQuery
from eventstore.errors import StoreError, StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from eventstore.model import Slice

T = TypeVar("T")


class Wrapped:
    """A `Backend` that does what the one inside does. Subclasses change `around` or the hints."""

    def __init__(self, inside: Backend) -> None:
        self._inside = inside

    @property
    def owner(self) -> int:
        return self._inside.owner

    @property
    def parallel_appends(self) -> int:
        return self._inside.parallel_appends

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Every call to the log goes through here, with the method's name."""
        return await call()

    def open(self, listener: Listener) -> AbstractAsyncContextManager[None]:
        return self._inside.open(listener)

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        return await self.around("append", partial(self._inside.append, batch))

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        return await self.around("read", partial(self._inside.read, queries))

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | StoreError | None]:
        return await self.around("heads", partial(self._inside.heads, streams))

    async def find_key(self, scope: str, name: str) -> Place | None:
        return await self.around("find_key", partial(self._inside.find_key, scope, name))

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        await self.around("save_snapshot", partial(self._inside.save_snapshot, stream, name, snapshot))

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        return await self.around("load_snapshot", partial(self._inside.load_snapshot, stream, name, at_most))

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        return await self.around("list_streams", partial(self._inside.list_streams, category, before, limit))

    async def trim(self, stream: str, before: int) -> Head | None:
        return await self.around("trim", partial(self._inside.trim, stream, before))

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        call = partial(self._inside.erase_streams, category, seconds, limit)
        return await self.around("erase_streams", call)

    async def expire_keys(self) -> int:
        return await self.around("expire_keys", self._inside.expire_keys)

    async def writer(self, stream: str, name: str) -> WriterState | None:
        return await self.around("writer", partial(self._inside.writer, stream, name))

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        await self.around("release", partial(self._inside.release, writers))

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        return await self.around("closed_by_others", self._inside.closed_by_others)

    async def open_writers(self) -> Sequence[OpenWriter]:
        return await self.around("open_writers", self._inside.open_writers)

    async def clock(self) -> datetime:
        return await self.around("clock", self._inside.clock)

    async def alive(self) -> None:
        await self.around("alive", self._inside.alive)

    def notify_newer(self, streams: Iterable[str]) -> None:
        self._inside.notify_newer(streams)

    def notify_closed(self, stream: str, writer: str) -> None:
        self._inside.notify_closed(stream, writer)


class Slow(Wrapped):
    """Each call takes `seconds`, half on the way there and half on the way back.

    `only` limits it to these calls.
    """

    def __init__(self, inside: Backend, seconds: float, only: Iterable[str] = ("append",)) -> None:
        super().__init__(inside)
        self._half = seconds / 2
        self._only = frozenset(only)

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if name not in self._only:
            return await call()
        await trio.sleep(self._half)
        answer = await call()
        await trio.sleep(self._half)
        return answer


class Forgetful(Wrapped):
    """Takes appends and then loses the answer, `losing` times: the caller cannot know the outcome."""

    losing = 0
    forgot = False

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        outcomes = await super().append(batch)
        if self.losing:
            self.losing -= 1
            self.forgot = True
            raise StoreUnavailable("the line went dead")
        return outcomes


class Mute(Wrapped):
    """Loses every notification to other processes."""

    def notify_newer(self, streams: Iterable[str]) -> None:
        pass

    def notify_closed(self, stream: str, writer: str) -> None:
        pass


class Jittery(Wrapped):
    """Every call takes a random time, and a share of them (`lost`) never arrives or loses its answer."""

    def __init__(self, inside: Backend, chance: random.Random, lost: float = 0.02) -> None:
        super().__init__(inside)
        self._chance = chance
        self._lost = lost

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        for way in ("there", "back"):
            if self._chance.random() < 0.6:
                await trio.sleep(self._chance.expovariate(20))
            if self._chance.random() < self._lost:
                raise StoreUnavailable(f"lost on the way {way}")
            if way == "there":
                answer = await call()
        return answer


def events_of(log: MemoryBackend, stream: str) -> list[Event]:
    """The events in the log, read past any process."""
    return list(log.streams[stream].events)
