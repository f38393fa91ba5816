"""Carries out commands, the same for every transport: decide on the state, append, act.

The way of a decision on a tool call, from socket to SQL:

    web/commands/command_endpoints   the body is read and checked, the command made
    web/commands/request_models      what the body may hold
    runtime/command_handlers         `CommandHandlers.decide_call`: here
    conversations/decide             the event that it leads to, or the refusal (pure)
    eventstore/store                 `append`, tried again while the database is away
    eventstore/batcher               one batch with what others append at the same time
    eventstore/postgres/…            the batch as one SQL statement, sent by asyncpg

A command runs in the service's own nursery: a client that leaves in the middle of its request cancels nothing that
was begun (between the append of a request and the start of its run, say). Of two clients who decide one call at
once, in whatever process: 1. both decide on the same state; 2. both append, each claiming the call's key
(`idempotency_keys`); 3. the store takes one, and the second is decided again on the state that it finds then. So
two people who approve a call at once, which two people have to approve, are the first and the last of them.

Owns the tries, the idempotency keys and what is done after the append. Must not know HTTP.
"""

import hashlib
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import trio

from eventstore import (
    ANY,
    NO_STREAM,
    Append,
    Appended,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    NewEvent,
    Rewound,
    StreamUnknown,
    Writer,
    WrongExpectedPosition,
)
from server.conversations import idempotency_keys
from server.conversations.command_types import (
    CancelGeneration,
    DecideCall,
    FinishCall,
    PostMessage,
    RaiseBudget,
    RequestGeneration,
    StartConversation,
    SteerGeneration,
)
from server.conversations.conversation_state import Conversation
from server.conversations.decide import (
    decide_budget,
    decide_cancel,
    decide_message,
    decide_on_call,
    decide_request,
    decide_result,
    decide_start,
    decide_steering,
)
from server.event_types import CONVERSATION, EPHEMERAL, EventType, conversation_category
from server.generations.executors import FIRST_EPOCH
from server.generations.supervisor import Supervisor
from server.ids import is_valid_id, new_id
from server.observability import logs
from server.problem import Problem, not_found, unavailable
from server.runtime.run_limits import RunLimits
from server.runtime.run_scheduling import RunScheduler
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import StreamDrain
from server.webhooks.webhooks import Webhooks
from server.workflows import Registry

MAX_TRIES = 20
"""How often a command is decided again on a state that has changed meanwhile."""
QUICK_TRIES, PAUSE_SECONDS = 5, 0.01
"""After so many tries without a pause, each waits a random time of up to this much more than the one before."""
CANCEL_SECONDS = 5.0
"""How long a cancellation waits for the provider to be closed."""

Decided = tuple[Sequence[NewEvent], tuple[Key, ...]]
"""The events that a command leads to, and the keys that they claim."""
Decide = Callable[[Conversation], Awaitable[Decided]]
T = TypeVar("T")


class CommandHandlers:
    """The commands of one process, a method each.

    `key` is the client's idempotency key. Each returns where the command's events stand; `repeated`: the same key
    was used before, and the events are those of that time. Each raises `StoreUnavailable` and `Problem`: 404 where
    an id is unknown, 422 `key_reused` where the key was used with another body, 503 while the server stops.
    """

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        states: StateCache,
        supervisor: Supervisor,
        scheduler: RunScheduler,
        webhooks: Webhooks,
        drain: StreamDrain,
        registry: Registry,
        max_runs: int,
        limits: RunLimits,
    ) -> None:
        self._store = store
        self._nursery = nursery
        self._context = copy_context()
        self._states = states
        self._supervisor = supervisor
        self._scheduler = scheduler
        self._webhooks = webhooks
        self._drain = drain
        self._registry = registry
        self._max_runs = max_runs
        self._limits = limits

    async def start_conversation(self, command: StartConversation, key: Key | None) -> Appended:
        """Starts a conversation."""
        events = decide_start(command)
        conversation = new_id("conv")
        category = conversation_category(command.tenant)
        append = partial(self._append, conversation, events, key, expected=NO_STREAM, category=category)
        appended = await self._detached(append)
        self._states.follow(Conversation(conversation), events, appended)
        return appended

    async def post_message(self, conversation: str, command: PostMessage, key: Key | None) -> Appended:
        """Posts one message."""
        await self._must_exist(conversation)
        events = decide_message(command)
        return await self._detached(partial(self._append, conversation, events, key))

    async def request_generation(
        self, conversation: str | None, command: RequestGeneration, key: Key | None
    ) -> Appended:
        """Appends the request and starts the run; without a conversation, in a new one of its own.

        Further `Problem`s: 409 `generation_running`, `queue_full`, 422 (model, workflow, tools, parameters, input,
        webhook), 503 `overloaded`, 429 `rate_limited`.
        """
        if conversation is not None:
            await self._must_exist(conversation)
        return await self._detached(partial(self._request, conversation, command, key))

    async def cancel_generation(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        """Ends the generation. Waits up to `CANCEL_SECONDS` for its provider to close; says whether it did."""
        return await self._detached(partial(self._cancel, conversation, command, key))

    async def steer_generation(self, conversation: str, command: SteerGeneration, key: Key | None) -> Appended:
        """Sets a parameter of the running generation. Further `Problem`s as `decide_steering`."""

        async def decide_on(state: Conversation) -> Decided:
            found = state.generation(command.generation)
            name = found.workflow if found is not None else None
            workflow = self._registry.workflows.get(name) if name else None
            return decide_steering(state, command, workflow), ()

        return await self._tell_run(conversation, command.generation, decide_on, key)

    async def raise_budget(self, conversation: str, command: RaiseBudget, key: Key | None) -> Appended:
        """Lets a generation use more. Further `Problem`s as `decide_budget`."""

        async def decide_on(state: Conversation) -> Decided:
            return decide_budget(state, command), ()

        return await self._tell_run(conversation, command.generation, decide_on, key)

    async def decide_call(self, conversation: str, command: DecideCall, key: Key | None) -> Appended:
        """Records a person's decision on a tool call. Further `Problem`s as `decide_on_call`."""

        async def decide_on(state: Conversation) -> Decided:
            now = await self._store.clock()
            check = partial(self._scheduler.check_arguments, state, command.generation)
            events = decide_on_call(state, command, now, check)
            found = state.generation(command.generation)
            call = found.call(command.call) if found is not None else None
            names = [command.call] if events[0].type == EventType.TOOL_DECIDED else []
            if call is not None and call.approvers > 1:
                names.append(idempotency_keys.approval_name(call.call, call.position))
            return events, tuple(_claim(idempotency_keys.DECISION, name, key) for name in names)

        return await self._tell_run(conversation, command.generation, decide_on, key)

    async def finish_call(self, conversation: str, command: FinishCall, key: Key | None) -> Appended:
        """Records the outcome of a client's tool. Further `Problem`s as `decide_result`."""
        claim = _claim(idempotency_keys.OUTCOME, command.call, key)

        async def decide_on(state: Conversation) -> Decided:
            return decide_result(state, command), (claim,)

        return await self._tell_run(conversation, command.generation, decide_on, key)

    # -- requesting a generation

    async def _request(self, conversation: str | None, command: RequestGeneration, key: Key | None) -> Appended:
        # The key comes first: a repeated request is answered as before, even where a new one would be refused now.
        earlier = await self._earlier(key)
        if earlier is not None:
            return earlier
        try:
            async with self._limits.starting(command.tenant, command.by, command.generation, conversation):
                return await self._request_new(conversation, command, key)
        except Problem as problem:
            # The run that takes the caller's last place may be that of this very request, sent twice at once.
            earlier = await self._earlier(key) if problem.status == 429 else None
            if earlier is None:
                raise
            return earlier

    async def _request_new(
        self, conversation: str | None, command: RequestGeneration, key: Key | None
    ) -> Appended:
        for tried in range(MAX_TRIES):
            state, opening = await self._open(conversation, command.tenant)
            try:
                resolved = self._scheduler.resolve(command)
                if command.if_running == "interrupt" and state.open:
                    # Checked before anything is cancelled: a request that is refused, or that repeats an earlier
                    # one, must not interrupt a running generation.
                    self._check_request(state, resolved)
                    earlier = await self._earlier(key)
                    if earlier is not None:
                        return earlier
                    await self._interrupt(state, resolved)
                    continue
                events = decide_request(state, resolved)
                # No `await` from here until `expecting`: else another request could take the last free place.
                self._check_request(state, resolved)
            except Problem:
                # The generation that is in the way may be this very request, sent twice at once.
                earlier = await self._earlier(key)
                if earlier is None:
                    raise
                return earlier
            try:
                return await self._append_and_start(
                    state, (*opening, *events), resolved, key, own_conversation=conversation is None
                )
            except WrongExpectedPosition:
                # In a busy conversation several requests may fail together again and again: random pauses part
                # them.
                if tried >= QUICK_TRIES:
                    await trio.sleep(random.uniform(0, PAUSE_SECONDS * (tried - QUICK_TRIES + 1)))
        await self._webhooks.abandon(command.generation)
        raise unavailable("The conversation changed faster than the request could be decided. Try again.")

    async def _open(self, conversation: str | None, tenant: str) -> tuple[Conversation, tuple[NewEvent, ...]]:
        """The conversation's state, and the events that must come before the request: those of a new one."""
        if conversation is not None:
            return await self._states.latest(conversation), ()
        return Conversation(new_id("conv")), decide_start(StartConversation(None, None, tenant))

    async def _interrupt(self, state: Conversation, command: RequestGeneration) -> None:
        """Cancels all open generations, the newest first: else the next in the queue would start meanwhile."""
        for found in reversed(state.open):
            reason = f"interrupted by {command.generation}"
            await self._cancel(state.id, CancelGeneration(found.id, reason, command.by), None)

    async def _append_and_start(
        self,
        state: Conversation,
        events: tuple[NewEvent, ...],
        command: RequestGeneration,
        key: Key | None,
        *,
        own_conversation: bool,
    ) -> Appended:
        """Appends the request and starts its run. Raises `WrongExpectedPosition`: decide again."""
        # A queued request may be appended at any position: the tokens of the generation in front of it would
        # otherwise refuse it again and again.
        queues = command.if_running == "queue" and not own_conversation
        with self._supervisor.expecting(command.generation), self._orphan_on_error(state.id, command):
            if command.webhook is not None:
                await self._webhooks.register(command.generation, state.id, command.webhook, command.tenant)
            try:
                appended = await self._append(
                    state.id,
                    events,
                    key,
                    expected=ANY if queues else state.position,
                    writer=Writer(command.generation, FIRST_EPOCH, 1),
                    claims=(Key(idempotency_keys.GENERATION, command.generation),),
                    category=EPHEMERAL if command.ephemeral else conversation_category(command.tenant),
                )
            except Problem:  # not so for a wrong position: the same request is appended again in a moment
                if command.webhook is not None:
                    await self._webhooks.abandon(command.generation)
                raise
            self._states.follow(state, events, appended)
            if not appended.repeated or await self._is_this_request(appended, command):
                after = await self._states.at(state.id, appended.last)
                found = after.generation(command.generation)
                assert found is not None
                alone = len(after.open) == 1
                self._supervisor.start(
                    self._scheduler.first_attempt(found, after.tenant, after if alone else None)
                )
                if command.webhook is not None:
                    self._webhooks.start(command.generation)
            elif command.webhook is not None:
                await self._webhooks.abandon(command.generation)
        return appended

    @contextmanager
    def _orphan_on_error(self, conversation: str, command: RequestGeneration) -> Iterator[None]:
        """Makes the run an orphan where the block fails: its request may be in the log all the same."""
        try:
            yield
        except (Problem, WrongExpectedPosition):
            raise  # nothing was appended
        except Exception:
            self._supervisor.orphan(conversation, command.generation, "store_unavailable")
            if command.webhook is not None:
                self._webhooks.leave_to_sweep(command.generation)
            raise

    async def _is_this_request(self, appended: Appended, command: RequestGeneration) -> bool:
        """Whether this very call made the append, and lost its first answer: then nobody else starts the run."""
        event = await self._store.read_one(appended.stream, appended.last)
        return event is not None and event.tag == command.generation

    def _check_request(self, state: Conversation, command: RequestGeneration) -> None:
        """Raises the `Problem` why the run may not start here and now, whatever else runs in the conversation."""
        self._scheduler.check_prompt(state, command)
        if command.webhook is not None:
            self._webhooks.check_url(command.webhook)
            self._webhooks.check_open(command.tenant)
        self._drain.refuse_if_begun()
        if self._supervisor.full(self._max_runs):
            raise Problem(
                503,
                "overloaded",
                f"This server runs {self._max_runs} generations at most, and all are taken. Try again soon.",
                retry_after=2.0,
                extra={"limit": self._max_runs},
            )

    # -- cancelling a generation

    async def _cancel(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        await self._earlier(key)
        state = await self._states.latest(conversation)
        events = decide_cancel(state, command)
        if events:
            # `Fenced`: between the look and the append it ended, or somebody else cancelled it. That is as good.
            with suppress(Fenced):
                await self._append(conversation, events, key, closes=command.generation)
        return await self._upstream_closed(conversation, command.generation)

    async def _upstream_closed(self, conversation: str, generation: str) -> bool:
        pause = 0.01
        with trio.move_on_after(CANCEL_SECONDS):
            if await self._supervisor.stop(generation):
                return True
            while True:  # it runs in another process, which releases the writer when nothing of the run is left
                writer = await self._store.writer(conversation, generation)
                if writer is None or writer.released or not writer.owner_alive:
                    return True
                await trio.sleep(pause)
                pause = min(0.1, pause * 2)
        return False

    # -- telling a running generation something

    async def _tell_run(self, conversation: str, generation: str, decide_on: Decide, key: Key | None) -> Appended:
        """Appends what `decide_on` answers on the newest state, while the generation's writer is open."""

        async def tell() -> Appended:
            # The key comes first: a repeated command is answered as before, even where a new one would be refused.
            earlier = await self._earlier(key)
            if earlier is not None:
                return earlier
            for _ in range(MAX_TRIES):
                state = await self._states.latest(conversation)
                try:
                    events, claims = await decide_on(state)
                except Problem:
                    # The decision that is in the way may be this very command, sent twice at once.
                    earlier = await self._earlier(key)
                    if earlier is None:
                        raise
                    return earlier
                try:
                    appended = await self._append(conversation, events, key, claims=claims, during=generation)
                except Fenced:
                    continue  # the generation ended meanwhile: the next state says so
                except KeyReused:  # somebody has claimed the call: this very command, or the next state says who
                    earlier = await self._earlier(key)
                    if earlier is not None:
                        return earlier
                    continue
                self._states.follow(state, events, appended)  # the answer shows the state at these events
                return appended
            raise unavailable("The generation changed faster than this could be decided. Try again.")

        return await self._detached(tell)

    # -- what all commands share

    async def _append(
        self,
        conversation: str,
        events: Sequence[NewEvent],
        key: Key | None,
        *,
        expected: int = ANY,
        writer: Writer | None = None,
        closes: str | None = None,
        during: str | None = None,
        claims: tuple[Key, ...] = (),
        category: str = CONVERSATION,
    ) -> Appended:
        """Appends events, claiming the client's `key` and the command's own `claims` with them.

        Raises `Problem` 422 `key_reused` where the client's key is taken, `KeyReused` where one of `claims` is.
        """
        keys = claims if key is None else (key, *claims)
        append = Append(
            conversation, tuple(events), expected, writer, closes, keys, category=category, during=during
        )
        try:
            return await self._store.append(append)
        except KeyReused:
            if not claims:
                raise _key_reused() from None
            await self._earlier(key)
            raise

    async def _earlier(self, key: Key | None) -> Appended | None:
        """What was appended with this key before, if anything. `Problem` 422 `key_reused`: with another body."""
        found = await self._store.find_key(key.scope, key.name) if key else None
        if key is None or found is None:
            return None
        if found.digest != key.digest:
            raise _key_reused()
        return Appended(found.stream, found.first, found.last, None, repeated=True)

    async def _must_exist(self, conversation: str) -> None:
        """Raises `Problem` 404 where there is no such conversation."""
        if not is_valid_id(conversation, "conv"):
            raise not_found("conversation")
        try:
            await self._store.head(conversation)
        except Rewound:
            # The log went back behind what this process had read. The store has forgotten that by now: ask again.
            await self._must_exist(conversation)
        except StreamUnknown:
            raise not_found("conversation") from None

    async def _detached(self, act: Callable[[], Awaitable[T]]) -> T:
        """Runs `act` to its end in the service's nursery, also where the caller is cancelled meanwhile."""
        results: list[T] = []
        errors: list[Exception] = []
        done = trio.Event()

        async def run() -> None:
            try:
                results.append(await act())
            except Exception as error:
                errors.append(error)  # raised to the caller below: it must not end the nursery
            finally:
                done.set()

        logs.detached(self._context).run(self._nursery.start_soon, run)
        await done.wait()
        if errors:
            raise errors[0]
        if not results:  # the process goes down and has cancelled the act
            raise unavailable("The server is stopping, and may not have done this. Ask again with the same key.")
        return results[0]


def _key_reused() -> Problem:
    return Problem(
        422,
        "key_reused",
        "This idempotency key was used before with another body. Take a new key for a new request.",
    )


def _claim(scope: str, name: str, key: Key | None) -> Key:
    """A key that one decision, approval or outcome of a call claims.

    Its digest is made of the client's key: the same command sent again is a repetition, any other one is refused.
    """
    digest = hashlib.sha256(f"{key.scope}\n{key.name}\n".encode() + (key.digest or b"")).digest() if key else None
    return Key(scope, name, digest=digest or secrets.token_bytes(32))
