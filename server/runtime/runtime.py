"""The runtime: what one serving process holds, and how it finds conversations and generations.

Folds, runs, drain and commands over one open store. It knows no HTTP.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from eventstore import EventStore, Head, Place, StreamUnknown, Trimmed
from server.errors import not_found
from server.events import GENERATION_SCOPE
from server.generation.fold import fold
from server.generation.state import Conversation, Generation
from server.generation.supervisor import Supervisor
from server.ids import looks_right
from server.metrics import Metrics
from server.runtime.commands import Commands
from server.runtime.drain import Drain
from server.runtime.folds import Folds
from server.runtime.sweep import sweep
from server.upstream import Upstreams

PLACES_KEPT = 50_000


class Runtime:
    """One process at work on one store. Made by `open_runtime`."""

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        upstreams: Upstreams,
        drain: Drain,
        most_runs: int,
        metrics: Metrics,
    ) -> None:
        self.store = store
        self.metrics = metrics
        self.most_runs = most_runs
        self.drain = drain
        self.folds = Folds(store, nursery)
        self.supervisor = Supervisor(store, nursery, f"worker-{store.owner:016x}", metrics)
        self.commands = Commands(store, nursery, self.folds, self.supervisor, upstreams, drain, most_runs)
        self._places: dict[str, Place] = {}

    async def conversation(self, name: str) -> Conversation:
        """The conversation at the primary's head. `Problem` 404."""
        if not looks_right(name, "conv"):
            raise not_found("conversation")
        return await self.folds.latest(name)

    async def head(self, name: str) -> Head:
        """Where a conversation's log ends and begins, read from the primary. `Problem` 404."""
        if not looks_right(name, "conv"):
            raise not_found("conversation")
        try:
            return await self.store.head(name)
        except StreamUnknown:
            raise not_found("conversation") from None

    async def first(self, name: str) -> Conversation:
        """The conversation as its first event made it: its title, for a list."""
        try:
            event = await self.store.read_one(name, 1)
        except Trimmed:
            try:
                return await self.folds.latest(name)
            except Trimmed:
                return Conversation(name)  # nothing tells its title any more; a list must not fail for that
        return fold(Conversation(name), [event] if event else [])

    async def place(self, generation: str) -> Place:
        """Where a generation was requested (`last` is the request itself). `Problem` 404."""
        if not looks_right(generation, "gen"):
            raise not_found("generation")
        found = self._places.get(generation)
        if found is None:
            found = await self.store.find_key(GENERATION_SCOPE, generation)
            if found is None:
                raise not_found("generation")
            self.remember(generation, found)
        return found

    def remember(self, generation: str, place: Place) -> None:
        """A place never changes; the oldest remembered one goes when there are too many."""
        if len(self._places) >= PLACES_KEPT:
            self._places.pop(next(iter(self._places)))
        self._places[generation] = place

    async def generation(self, name: str) -> tuple[Conversation, Generation]:
        """A generation and its conversation at the primary's head. `Problem` 404."""
        conversation, found, _ = await self.look(name)
        return conversation, found

    async def look(self, name: str) -> tuple[Conversation, Generation, Head]:
        """As `generation`, and where the conversation's log ended and began then."""
        conversation, head = await self.folds.look((await self.place(name)).stream)
        found = conversation.generation(name)
        if found is None:
            raise not_found("generation")
        return conversation, found, head


@asynccontextmanager
async def open_runtime(
    store: EventStore, upstreams: Upstreams, drain: Drain, *, most_runs: int, metrics: Metrics | None = None
) -> AsyncIterator[Runtime]:
    """The runtime at work on an open store. At its end all its tasks are cancelled; drain it first.

    `metrics` are the process's; without, it counts for itself.
    """
    async with trio.open_nursery() as nursery:
        runtime = Runtime(store, nursery, upstreams, drain, most_runs, metrics or Metrics())
        nursery.start_soon(runtime.supervisor.watch)
        nursery.start_soon(runtime.supervisor.pace.run)
        nursery.start_soon(sweep, store, runtime.supervisor)
        yield runtime
        nursery.cancel_scope.cancel()
