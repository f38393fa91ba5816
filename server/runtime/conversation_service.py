"""What one serving process holds, and how it finds conversations and generations for the transports.

Owns the parts of the process (states, supervisor, scheduler, webhooks, commands, housekeeping) over one open
store, their tasks, and the lookups by id. Must not know HTTP.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from eventstore import Erased, Event, EventStore, Head, Place, Rewound, StreamUnknown, Trimmed
from eventstore.db_retry import retry_until_available
from server.config.price_table import PriceTable
from server.config.web_addresses import PublicUrl
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.fold import fold
from server.event_types import TERMINAL
from server.files.file_store import FileStore
from server.files.memory_file_store import MemoryFileStore
from server.generations.run.run_files import RunFiles
from server.generations.run_context import RunResources
from server.generations.supervisor import Supervisor
from server.generations.token_pump import AdaptiveBatching
from server.ids import is_valid_id
from server.observability import Metrics
from server.problem import not_found
from server.providers import ProviderRegistry
from server.runtime.command_handlers import CommandHandlers
from server.runtime.generation_index import GenerationIndex
from server.runtime.orphan_recovery import OrphanRecovery
from server.runtime.retention import enforce_retention
from server.runtime.run_limits import NoRunLimits, RunLimits, report_running, report_use
from server.runtime.run_scheduling import RunScheduler
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import StreamDrain
from server.webhooks.retry_schedule import WebhookOptions
from server.webhooks.webhooks import Webhooks
from server.workflows import Registry

LARGE_PAGES = 2
"""Pages of many bytes that are made at the same time."""


class ConversationService:
    """One process at work on one store. Made by `open_conversation_service`."""

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        providers: ProviderRegistry,
        drain: StreamDrain,
        max_runs: int,
        metrics: Metrics,
        registry: Registry,
        webhooks: WebhookOptions,
        public: PublicUrl,
        prices: PriceTable,
        limits: RunLimits,
        files: FileStore,
    ) -> None:
        self.store = store
        self.files = files
        self.public = public
        self.metrics = metrics
        self.max_runs = max_runs
        self.large_pages = trio.CapacityLimiter(LARGE_PAGES)
        self.drain = drain
        self.states = StateCache(store, nursery)
        self.providers = providers
        self.batching = AdaptiveBatching()
        run_files = RunFiles(files)
        self.scheduler = RunScheduler(store, self.states, providers, registry, prices, run_files)
        resources = RunResources(
            providers, registry.tools, self.batching, self._read_conversation, prices, run_files
        )
        worker = f"worker-{store.owner:016x}"
        report = partial(report_use, limits, prices)
        self.supervisor = Supervisor(store, nursery, worker, resources, metrics, report)
        limits.watch_runs(self.supervisor.runs.values)
        self.webhooks = Webhooks(store, nursery, webhooks, metrics.webhooks)
        self.commands = CommandHandlers(
            store,
            nursery,
            self.states,
            self.supervisor,
            self.scheduler,
            self.webhooks,
            drain,
            registry,
            max_runs,
            limits,
            files,
        )
        self.generations = GenerationIndex(store)
        self.orphan_recovery = OrphanRecovery(
            store, self.states, self.supervisor, self.scheduler, self.webhooks, drain, max_runs
        )

    async def _read_conversation(self, conversation: str) -> Conversation:
        """The conversation at its head, for a run: it loses nothing by waiting for a log that is away."""
        return await retry_until_available(partial(self.states.latest, conversation))

    async def conversation(self, name: str) -> Conversation:
        """The conversation at the primary's head. Raises `Problem` 404."""
        if not is_valid_id(name, "conv"):
            raise not_found("conversation")
        return await self.states.latest(name)

    async def head(self, name: str) -> Head:
        """Where a conversation's log ends and begins, read from the primary. Raises `Problem` 404."""
        if not is_valid_id(name, "conv"):
            raise not_found("conversation")
        return await self.head_of(name)

    async def head_of(self, conversation: str) -> Head:
        """As `head`, for an id that is known to be well formed."""
        try:
            return await self.store.head(conversation)
        except Rewound:
            # The log went back behind what this process had read. The store has forgotten that by now: ask again.
            return await self.head_of(conversation)
        except StreamUnknown:
            raise not_found("conversation") from None

    async def first(self, name: str) -> Conversation:
        """The conversation as of its first event, which holds its title: for a list."""
        try:
            event = await self.store.read_one(name, 1)
        except Erased:
            return Conversation(name)  # it was erased after the list was read
        except Trimmed:
            try:
                return await self.states.latest(name)
            except Trimmed:
                return Conversation(name)  # its title is lost; the whole list must not fail for that
        return fold(Conversation(name), [event] if event else [])

    async def place(self, generation: str) -> Place:
        """Where a generation was requested (`last` is the position of the request). Raises `Problem` 404."""
        if not is_valid_id(generation, "gen"):
            raise not_found("generation")
        found = await self.generations.find(generation)
        if found is None:
            raise not_found("generation")
        return found

    def remember(self, generation: str, place: Place) -> None:
        """Keeps in memory where a generation was requested."""
        self.generations.remember(generation, place)

    def ended_at(self, generation: str) -> int | None:
        """The position of a generation's terminal event, if this process knows it. It never changes."""
        known = self.generations.end(generation)
        place = self.generations.known(generation)
        if known is None and place is not None:
            state = self.states.known(place.stream)
            found = state.generation(generation) if state is not None else None
            if found is not None and found.ended:
                self.saw_end(generation, found.position)
                return found.position
        return known

    def saw_end(self, generation: str, position: int) -> None:
        """Keeps in memory the position of a generation's terminal event; called by whoever has read that event."""
        self.generations.ended(generation, position)

    async def ended_by(self, generation: str, position: int) -> bool:
        """Whether a generation's terminal event stands at `position`, or in front of it.

        `position` is known to be in the log, and what stands there never changes. So this is answered, in this
        order and by the cheapest way that knows:

        1. from memory;
        2. by the event at that position: an event of the generation that is not terminal comes before its end;
        3. by the generation's writer, while that is open;
        4. by the conversation's state.

        Raises `Problem` 404.
        """
        place = await self.place(generation)
        if position <= place.last:
            return False
        end = self.ended_at(generation)
        if end is not None:
            return end <= position
        state = self.states.known(place.stream)
        if state is not None and state.position >= position:
            return False  # this state would have told of the end
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
        """The event at a position; None where it is not retained any more."""
        recent = self.store.recent(conversation, position - 1, 1)
        if recent:
            return recent[0]
        try:
            return await self.store.read_one(conversation, position)
        except Trimmed:
            return None

    async def generation(self, name: str) -> tuple[Conversation, Generation]:
        """A generation and its conversation at the primary's head. Raises `Problem` 404."""
        conversation, found, _ = await self.look(name)
        return conversation, found

    async def look(self, name: str) -> tuple[Conversation, Generation, Head]:
        """As `generation`, and where the conversation's log ended and began at that read."""
        conversation, head = await self.states.look((await self.place(name)).stream)
        found = conversation.generation(name)
        if found is None:
            raise not_found("generation")
        return conversation, found, head


@asynccontextmanager
async def open_conversation_service(
    store: EventStore,
    providers: ProviderRegistry,
    drain: StreamDrain,
    *,
    max_runs: int,
    metrics: Metrics | None = None,
    registry: Registry | None = None,
    webhooks: WebhookOptions | None = None,
    ephemeral_seconds: float = 600.0,
    public: PublicUrl | None = None,
    prices: PriceTable | None = None,
    limits: RunLimits | None = None,
    files: FileStore | None = None,
) -> AsyncIterator[ConversationService]:
    """The service at work on an open store. Leaving the context cancels all its tasks: drain it first.

    `max_runs` run at once; `registry` holds what apps declared; `ephemeral_seconds` is how long an ephemeral
    conversation is kept after its last event; `public` is where clients find this server; `prices`: what
    models cost; `limits`: lets runs start; `files`: an open store of files, without one they are kept in memory.
    Without `metrics` it counts for itself.
    """
    limits, prices = limits or NoRunLimits(), prices or PriceTable()
    async with trio.open_nursery() as nursery:
        service = ConversationService(
            store,
            nursery,
            providers,
            drain,
            max_runs,
            metrics or Metrics(),
            registry or Registry(),
            webhooks or WebhookOptions(),
            public or PublicUrl(),
            prices,
            limits,
            files or MemoryFileStore(),
        )
        nursery.start_soon(service.supervisor.watch)
        nursery.start_soon(service.batching.run)
        nursery.start_soon(report_running, limits, prices, service.supervisor)
        nursery.start_soon(service.orphan_recovery.run)
        nursery.start_soon(drain.serve)
        nursery.start_soon(
            enforce_retention, store, service.states, service.files, service.metrics, ephemeral_seconds
        )
        yield service
        nursery.cancel_scope.cancel()
