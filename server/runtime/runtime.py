"""The runtime: what one serving process holds, and how it finds conversations and generations.

Folds, runs, drain and commands over one open store. It knows no HTTP.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from eventstore import Erased, Event, EventStore, Head, Place, Rewound, StreamUnknown, Trimmed
from server.config.public_url import PublicUrl
from server.errors import not_found
from server.events import TERMINAL
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
from server.runtime.generation_places import GenerationPlaces
from server.runtime.starting import Starting
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import Drain
from server.runtime.sweep import Sweeping, expire, sweep
from server.upstream import Upstreams
from server.webhooks.options import WebhookOptions
from server.webhooks.webhooks import Webhooks
from server.workflows import Registry

LARGE_PAGES = 2
"""Pages of many bytes that are made at once."""


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
        public: PublicUrl,
    ) -> None:
        self.store = store
        self.public = public
        self.metrics = metrics
        self.most_runs = most_runs
        self.large_pages = trio.CapacityLimiter(LARGE_PAGES)
        self.drain = drain
        self.states = self.folds = StateCache(store, nursery)
        self.upstreams = upstreams
        self.starting = Starting(store, self.folds, upstreams, registry)
        worker = f"worker-{store.owner:016x}"
        self.supervisor = Supervisor(store, nursery, worker, self._around, metrics)
        self.webhooks = Webhooks(store, nursery, webhooks, metrics.webhooks)
        acting = Acting(store, nursery)
        self.commands = Commands(
            store, acting, self.folds, self.supervisor, self.starting, self.webhooks, drain, most_runs
        )
        self.controls = Controls(store, acting, self.folds, registry)
        self.places = GenerationPlaces(store)

    def _around(self, attempt: Attempt) -> Surroundings:
        return self.starting.around(self.supervisor.pace, attempt)

    async def sweep(self) -> None:
        """Sees to what nobody drives any more. Runs for ever."""
        await sweep(
            Sweeping(
                self.store,
                self.folds,
                self.supervisor,
                self.starting,
                self.webhooks,
                self.drain,
                self.most_runs,
            )
        )

    async def conversation(self, name: str) -> Conversation:
        """The conversation at the primary's head. `Problem` 404."""
        if not looks_right(name, "conv"):
            raise not_found("conversation")
        return await self.folds.latest(name)

    async def head(self, name: str) -> Head:
        """Where a conversation's log ends and begins, read from the primary. `Problem` 404."""
        if not looks_right(name, "conv"):
            raise not_found("conversation")
        return await self.head_of(name)

    async def head_of(self, conversation: str) -> Head:
        """The same for a name that is known to be one of ours."""
        try:
            return await self.store.head(conversation)
        except Rewound:  # which is nothing to whoever has seen nothing: what was held here is forgotten now
            return await self.head_of(conversation)
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
        found = await self.places.find(generation)
        if found is None:
            raise not_found("generation")
        return found

    def remember(self, generation: str, place: Place) -> None:
        """A generation was requested there."""
        self.places.remember(generation, place)

    def ended_at(self, generation: str) -> int | None:
        """The position of its terminal event, if this process knows it. It never changes."""
        known = self.places.end(generation)
        place = self.places.known(generation)
        if known is None and place is not None:
            state = self.states.known(place.stream)
            found = state.generation(generation) if state is not None else None
            if found is not None and found.ended:
                self.saw_end(generation, found.position)
                return found.position
        return known

    def saw_end(self, generation: str, position: int) -> None:
        """Its terminal event stands there: told by whoever has read it."""
        self.places.ended(generation, position)

    async def ended_by(self, generation: str, position: int) -> bool:
        """Whether its terminal event stands at a position that is known to be in the log, or in front of it.

        What lies there never changes, so this is answered from memory where it can be, and else by a look at that
        very event: one of the generation's own that is not its end comes before the end. Where it is an event of
        others, the generation's writer says whether it is open; only for one that was closed, and of which nothing
        is at hand, is the conversation folded. `Problem` 404.
        """
        place = await self.place(generation)
        if position <= place.last:
            return False
        end = self.ended_at(generation)
        if end is not None:
            return end <= position
        state = self.states.known(place.stream)
        if state is not None and state.position >= position:
            return False  # else its end would be known by now
        event = await self._event(place.stream, position)
        if event is not None and event.tag == generation:
            if event.type in TERMINAL:
                self.saw_end(generation, position)
            return event.type in TERMINAL
        writer = await self.store.writer(place.stream, generation)
        if writer is not None and not writer.closed:
            return False
        _, found, _ = await self.look(generation)
        return found.ended and found.position <= position

    async def _event(self, conversation: str, position: int) -> Event | None:
        """The event at a position; None where it is not there any more."""
        recent = self.store.recent(conversation, position - 1, 1)
        if recent:
            return recent[0]
        try:
            return await self.store.read_one(conversation, position)
        except Trimmed:
            return None

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
    public: PublicUrl | None = None,
) -> AsyncIterator[Runtime]:
    """The runtime at work on an open store. At its end all its tasks are cancelled; drain it first.

    `metrics` are the process's; without, it counts for itself. `registry`: what apps declared. `public`: where
    clients find this server.
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
            public or PublicUrl(),
        )
        nursery.start_soon(runtime.supervisor.watch)
        nursery.start_soon(runtime.supervisor.pace.run)
        nursery.start_soon(runtime.sweep)
        nursery.start_soon(drain.serve)
        nursery.start_soon(expire, store, runtime.folds, ephemeral_seconds)
        yield runtime
        nursery.cancel_scope.cancel()
