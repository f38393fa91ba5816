"""The runtime: what one serving process holds, and how it finds conversations and generations.

Folds, runs, drain and commands over one open store. It knows no HTTP.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from eventstore import Erased, EventStore, Head, Place, StreamUnknown, Trimmed
from server.errors import not_found
from server.events import GENERATION_SCOPE
from server.generation.attempt import Attempt
from server.generation.fold import fold
from server.generation.run import Surroundings
from server.generation.state import Conversation, Generation
from server.generation.supervisor import Supervisor
from server.ids import looks_right
from server.metrics import Metrics
from server.runtime.acting import Acting
from server.runtime.commands import Commands
from server.runtime.controls import Controls
from server.runtime.starting import Starting
from server.runtime.state_cache import Folds
from server.runtime.stream_drain import Drain
from server.runtime.sweep import Sweeping, expire, sweep
from server.upstream import Upstreams
from server.webhooks.options import WebhookOptions
from server.webhooks.webhooks import Webhooks
from server.workflows import Registry

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
        registry: Registry,
        webhooks: WebhookOptions,
    ) -> None:
        self.store = store
        self.metrics = metrics
        self.most_runs = most_runs
        self.drain = drain
        self.folds = Folds(store, nursery)
        self.starting = Starting(store, self.folds, upstreams, registry)
        worker = f"worker-{store.owner:016x}"
        self.supervisor = Supervisor(store, nursery, worker, self._around, metrics)
        self.webhooks = Webhooks(store, nursery, webhooks, metrics.webhooks)
        acting = Acting(store, nursery)
        self.commands = Commands(
            store, acting, self.folds, self.supervisor, self.starting, self.webhooks, drain, most_runs
        )
        self.controls = Controls(store, acting, self.folds, registry)
        self._places: dict[str, Place] = {}

    def _around(self, attempt: Attempt) -> Surroundings:
        return self.starting.around(self.supervisor.pace, attempt)

    async def sweep(self) -> None:
        """Sees to what nobody drives any more. Runs for ever."""
        await sweep(Sweeping(self.store, self.folds, self.supervisor, self.starting, self.webhooks, self.drain))

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
        except Erased:
            return Conversation(name)  # since the list was read
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
    store: EventStore,
    upstreams: Upstreams,
    drain: Drain,
    *,
    most_runs: int,
    metrics: Metrics | None = None,
    registry: Registry | None = None,
    webhooks: WebhookOptions | None = None,
    ephemeral_seconds: float = 600.0,
) -> AsyncIterator[Runtime]:
    """The runtime at work on an open store. At its end all its tasks are cancelled; drain it first.

    `metrics` are the process's; without, it counts for itself. `registry`: what apps declared.
    """
    async with trio.open_nursery() as nursery:
        runtime = Runtime(
            store,
            nursery,
            upstreams,
            drain,
            most_runs,
            metrics or Metrics(),
            registry or Registry(),
            webhooks or WebhookOptions(),
        )
        nursery.start_soon(runtime.supervisor.watch)
        nursery.start_soon(runtime.supervisor.pace.run)
        nursery.start_soon(runtime.sweep)
        nursery.start_soon(expire, store, runtime.folds, ephemeral_seconds)
        yield runtime
        nursery.cancel_scope.cancel()
