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

Owns the commands on a conversation and on its running generations. Requests of generations are made in
`commands/generation_requests`; the keys and tasks of every append are in `commands/keyed_appends`. Must not know
HTTP.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio

from eventstore import NO_STREAM, Appended, EventStore, Fenced, Key, KeyReused, NewEvent
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
    answer_to_join,
    decide_budget,
    decide_cancel,
    decide_message,
    decide_on_call,
    decide_result,
    decide_start,
    decide_steering,
)
from server.event_types import EventType, conversation_category
from server.files.file_store import FileStore
from server.generations.supervisor import Supervisor
from server.ids import new_id
from server.message_parts import files_of
from server.problem import Problem, unavailable
from server.runtime.commands.generation_requests import GenerationRequests
from server.runtime.commands.keyed_appends import MAX_TRIES, KeyedAppends
from server.runtime.commands.message_files import MessageFiles
from server.runtime.run_limits import RunLimits
from server.runtime.run_scheduling import RunScheduler
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import StreamDrain
from server.webhooks.webhooks import Webhooks
from server.workflows import Registry

CANCEL_SECONDS = 5.0
"""How long a cancellation waits for the provider to be closed."""

Decided = tuple[Sequence[NewEvent], tuple[Key, ...]]
"""The events that a command leads to, and the keys that they claim."""
Decide = Callable[[Conversation], Awaitable[Decided]]


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
        files: FileStore,
    ) -> None:
        self._store = store
        self._states = states
        self._supervisor = supervisor
        self._scheduler = scheduler
        self._registry = registry
        self._appends = KeyedAppends(store, nursery)
        self._files = MessageFiles(files)
        self._limits = limits
        self._requests = GenerationRequests(
            store,
            self._appends,
            self._files,
            states,
            supervisor,
            scheduler,
            webhooks,
            drain,
            max_runs,
            limits,
            self._cancel,
        )

    async def start_conversation(self, command: StartConversation, key: Key | None) -> Appended:
        """Starts a conversation."""
        events = decide_start(command)
        conversation = new_id("conv")
        category = conversation_category(command.tenant)
        append = partial(self._appends.append, conversation, events, key, expected=NO_STREAM, category=category)
        appended = await self._appends.run_detached(append)
        self._states.follow(Conversation(conversation), events, appended)
        return appended

    async def post_message(self, conversation: str, command: PostMessage, key: Key | None) -> Appended:
        """Posts one message; one that is to be delivered now, into the answer that is running.

        Further `Problem`s: 422 `file_unknown`, `invalid_request` (an image that is none), `invalid_parameters`
        (the model that is running cannot take its files), 429 `rate_limited` (the answer may use no more today).
        """
        await self._appends.must_exist(conversation)
        return await self._appends.run_detached(partial(self._post, conversation, command, key))

    async def _post(self, conversation: str, command: PostMessage, key: Key | None) -> Appended:
        digests = {part.digest for part in files_of(command.content)}
        if digests or command.deliver is not None:
            # The key comes first: a repeated message is answered as before, even where its file is gone since.
            earlier = await self._appends.earlier(key)
            if earlier is not None:
                return earlier
        if digests:
            (content,) = await self._files.look_up(command.tenant, {"content": command.content})
            await self._files.keep(command.tenant, conversation, digests, "content")
            command = replace(command, content=content)
        if command.deliver is not None:
            return await self._deliver(conversation, command, key)
        return await self._appends.append(conversation, decide_message(command), key)

    async def request_generation(
        self, conversation: str | None, command: RequestGeneration, key: Key | None
    ) -> Appended:
        """Appends the request and starts the run; without a conversation, in a new one of its own.

        Further `Problem`s: 409 `generation_running`, `queue_full`, 422 (model, workflow, tools, parameters, input,
        its files, webhook), 503 `overloaded`, 429 `rate_limited`.
        """
        if conversation is not None:
            await self._appends.must_exist(conversation)
        return await self._appends.run_detached(partial(self._requests.request, conversation, command, key))

    async def cancel_generation(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        """Ends the generation. Waits up to `CANCEL_SECONDS` for its provider to close; says whether it did."""
        return await self._appends.run_detached(partial(self._cancel, conversation, command, key))

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

    # -- putting a message into a running answer

    async def _deliver(self, conversation: str, command: PostMessage, key: Key | None) -> Appended:
        """Posts a message for the answer that runs at that very moment, and tells that answer.

        The append names the answer's writer: where the answer ends first, nothing is appended, and it is decided
        again which answer takes the message.
        """
        for _ in range(MAX_TRIES):
            state = await self._states.latest(conversation)
            into = answer_to_join(state)
            found = state.generation(into) if into is not None else None
            if into is not None and found is not None:
                # The answer asks its provider again, as a new one would, and for the one who asked for it.
                await self._limits.check_day(state.tenant, found.by)
                self._scheduler.check_message(state, into, command)
            try:
                appended = await self._appends.append(
                    conversation, decide_message(command, into), key, during=into
                )
            except Fenced:
                continue  # the answer has ended meanwhile: the next state says so
            if into is not None:
                self._supervisor.tell_of_message(into)
            return appended
        raise unavailable("The conversation changed faster than the message could be posted. Try again.")

    # -- cancelling a generation

    async def _cancel(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        await self._appends.earlier(key)
        state = await self._states.latest(conversation)
        events = decide_cancel(state, command)
        if events:
            # `Fenced`: between the look and the append it ended, or somebody else cancelled it. That is as good.
            with suppress(Fenced):
                await self._appends.append(conversation, events, key, closes=command.generation)
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
            earlier = await self._appends.earlier(key)
            if earlier is not None:
                return earlier
            for _ in range(MAX_TRIES):
                state = await self._states.latest(conversation)
                try:
                    events, claims = await decide_on(state)
                except Problem:
                    # The decision that is in the way may be this very command, sent twice at once.
                    earlier = await self._appends.earlier(key)
                    if earlier is None:
                        raise
                    return earlier
                try:
                    appended = await self._appends.append(
                        conversation, events, key, claims=claims, during=generation
                    )
                except Fenced:
                    continue  # the generation ended meanwhile: the next state says so
                except KeyReused:  # somebody has claimed the call: this very command, or the next state says who
                    earlier = await self._appends.earlier(key)
                    if earlier is not None:
                        return earlier
                    continue
                self._states.follow(state, events, appended)  # the answer shows the state at these events
                return appended
            raise unavailable("The generation changed faster than this could be decided. Try again.")

        return await self._appends.run_detached(tell)


def _claim(scope: str, name: str, key: Key | None) -> Key:
    """A key that one decision, approval or outcome of a call claims.

    Its digest is made of the client's key: the same command sent again is a repetition, any other one is refused.
    """
    digest = hashlib.sha256(f"{key.scope}\n{key.name}\n".encode() + (key.digest or b"")).digest() if key else None
    return Key(scope, name, digest=digest or secrets.token_bytes(32))
