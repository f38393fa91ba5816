"""Carries out commands, the same for every transport: decide on the fold, append, act.

What people tell a generation that runs is in `controls`. It knows no HTTP.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from eventstore import (
    ANY,
    NO_STREAM,
    Appended,
    EventStore,
    Fenced,
    Key,
    NewEvent,
    Writer,
    WrongExpectedPosition,
)
from server.errors import Problem, unavailable
from server.events import CONVERSATION, EPHEMERAL, GENERATION_SCOPE
from server.generation import decide
from server.generation.attempt import EPOCH
from server.generation.commands import CancelGeneration, PostMessage, RequestGeneration, StartConversation
from server.generation.state import Conversation
from server.generation.supervisor import Supervisor
from server.ids import new as new_id
from server.runtime.acting import Acting
from server.runtime.starting import Starting
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import Drain
from server.webhooks.webhooks import Webhooks

DECIDE_TRIES = 20
QUICK_TRIES, TRY_PAUSE = 5, 0.01
CANCEL_SECONDS = 5.0


class Commands:
    """The commands of one process. Each returns where its events are; `repeated` ones stood there before.

    Every one raises `Problem` (`key_reused`; 404 where a name is unknown) and `StoreUnavailable`.
    """

    def __init__(
        self,
        store: EventStore,
        acting: Acting,
        folds: StateCache,
        supervisor: Supervisor,
        starting: Starting,
        webhooks: Webhooks,
        drain: Drain,
        most_runs: int,
    ) -> None:
        self._store = store
        self._acting = acting
        self._folds = folds
        self._supervisor = supervisor
        self._starting = starting
        self._webhooks = webhooks
        self._drain = drain
        self._most_runs = most_runs

    async def start_conversation(self, command: StartConversation, key: Key | None) -> Appended:
        """A new conversation."""
        events = decide.start_conversation(command)
        name = new_id("conv")
        appended = await self._acting.detached(partial(self._acting.append, name, events, key, expected=NO_STREAM))
        self._folds.follow(Conversation(name), events, appended)
        return appended

    async def post_message(self, conversation: str, command: PostMessage, key: Key | None) -> Appended:
        """One message."""
        await self._acting.must_exist(conversation)
        events = decide.post_message(command)
        return await self._acting.detached(partial(self._acting.append, conversation, events, key))

    async def request_generation(
        self, conversation: str | None, command: RequestGeneration, key: Key | None
    ) -> Appended:
        """Appends the request and starts the run; without a conversation, in a new one of its own.

        More `Problem`s: 409 `generation_running`, `queue_full`, 422 (model, workflow, tools, parameters, input,
        webhook), 503 (full, stopping).
        """
        if conversation is not None:
            await self._acting.must_exist(conversation)
        return await self._acting.detached(partial(self._request, conversation, command, key))

    async def cancel_generation(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        """Ends the generation, waits (5 s at most) for its upstream to close, and says whether it did."""
        return await self._acting.detached(partial(self._cancel, conversation, command, key))

    async def _request(self, conversation: str | None, command: RequestGeneration, key: Key | None) -> Appended:
        # First: a repeated request is answered as before, even where a new one would be refused by now.
        earlier = await self._acting.earlier(key)
        if earlier is not None:
            return earlier
        for tried in range(DECIDE_TRIES):
            state, opening = await self._open(conversation)
            try:
                asked = self._starting.settle(command)
                if command.if_running == "interrupt" and state.open:
                    # Nobody is cancelled for a request that is refused, nor by its own repetition.
                    self._check(state, asked)
                    earlier = await self._acting.earlier(key)
                    if earlier is not None:
                        return earlier
                    await self._interrupt(state, asked)
                    continue
                events = decide.request_generation(state, asked)
                self._check(state, asked)  # no await until the run is expected: none more slips in
            except Problem:
                # What stands in the way may be this very request, sent twice at once.
                earlier = await self._acting.earlier(key)
                if earlier is None:
                    raise
                return earlier
            try:
                return await self._start(state, (*opening, *events), asked, key, own=conversation is None)
            except WrongExpectedPosition:
                # In a room that is busy just now the next try finds the same; with a pause they part.
                if tried >= QUICK_TRIES:
                    await trio.sleep(random.uniform(0, TRY_PAUSE * (tried - QUICK_TRIES + 1)))
        await self._webhooks.abandon(command.generation)
        raise unavailable("The conversation changed faster than the request could be decided. Try again.")

    async def _open(self, conversation: str | None) -> tuple[Conversation, tuple[NewEvent, ...]]:
        if conversation is not None:
            return await self._folds.latest(conversation), ()
        return Conversation(new_id("conv")), decide.start_conversation(StartConversation(None, None))

    async def _interrupt(self, state: Conversation, command: RequestGeneration) -> None:
        """Cancels all that have not ended, the newest first: else the next in the queue would start."""
        for found in reversed(state.open):
            reason = f"interrupted by {command.generation}"
            await self._cancel(state.id, CancelGeneration(found.id, reason, command.by), None)

    async def _start(
        self,
        state: Conversation,
        events: tuple[NewEvent, ...],
        command: RequestGeneration,
        key: Key | None,
        *,
        own: bool,
    ) -> Appended:
        """The request into the log, and its run started."""
        # A queue stands behind whatever comes in between: tokens of the one before would refuse it for ever.
        queues = command.if_running == "queue" and not own
        with self._supervisor.expecting(command.generation), self._not_lost(state.id, command):
            if command.webhook is not None:
                await self._webhooks.register(command.generation, state.id, command.webhook)
            try:
                appended = await self._acting.append(
                    state.id,
                    events,
                    key,
                    expected=ANY if queues else state.position,
                    writer=Writer(command.generation, EPOCH, 1),
                    claim=Key(GENERATION_SCOPE, command.generation),
                    category=EPHEMERAL if command.ephemeral else CONVERSATION,
                )
            except Problem:  # not a wrong position: the same request is about to come again
                if command.webhook is not None:
                    await self._webhooks.abandon(command.generation)
                raise
            self._folds.follow(state, events, appended)
            if not appended.repeated or await self._is_ours(appended, command):
                after = await self._folds.at(state.id, appended.last)
                found = after.generation(command.generation)
                assert found is not None
                alone = len(after.open) == 1
                self._supervisor.start(self._starting.attempt(found, after if alone else None))
                if command.webhook is not None:
                    self._webhooks.start(command.generation)
            elif command.webhook is not None:
                await self._webhooks.abandon(command.generation)
        return appended

    @contextmanager
    def _not_lost(self, conversation: str, command: RequestGeneration) -> Iterator[None]:
        """Where this fails, the request may stand in the log all the same: then the sweep sees to its run."""
        try:
            yield
        except (Problem, WrongExpectedPosition):
            raise  # nothing was appended
        except Exception:
            self._supervisor.leave(conversation, command.generation, "store_unavailable")
            if command.webhook is not None:
                self._webhooks.leave(command.generation)
            raise

    async def _is_ours(self, appended: Appended, command: RequestGeneration) -> bool:
        # "Repeated" may mean this very request, sent twice over a lost connection: then nobody else starts it.
        event = await self._store.read_one(appended.stream, appended.last)
        return event is not None and event.tag == command.generation

    def _check(self, state: Conversation, command: RequestGeneration) -> None:
        """Whether it may start here and now, but for what else runs."""
        self._starting.check(state, command)
        if command.webhook is not None:
            self._webhooks.check(command.webhook)
        self._drain.refuse_if_begun()
        if self._supervisor.full(self._most_runs):
            raise Problem(
                503,
                "overloaded",
                f"This server runs {self._most_runs} generations at most, and all are taken. Try again soon.",
                retry_after=2.0,
                extra={"limit": self._most_runs},
            )

    async def _cancel(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        await self._acting.earlier(key)
        state = await self._folds.latest(conversation)
        events = decide.cancel_generation(state, command)
        if events:
            # Fenced: it ended, or somebody cancelled it, between the look and the append. As good.
            with suppress(Fenced):
                await self._acting.append(conversation, events, key, closes=command.generation)
        return await self._upstream_closed(conversation, command.generation)

    async def _upstream_closed(self, conversation: str, generation: str) -> bool:
        pause = 0.01
        with trio.move_on_after(CANCEL_SECONDS):
            if await self._supervisor.stop(generation):
                return True
            while True:
                writer = await self._store.writer(conversation, generation)
                if writer is None or writer.released or not writer.owner_alive:
                    return True
                await trio.sleep(pause)
                pause = min(0.1, pause * 2)
        return False
