"""Requests of generations: decided, appended and started, each once, whatever else happens in the conversation.

Owns the tries of a request, its checks before the 202, its webhook, and what becomes of its run where the append
fails. Must not know HTTP, nor how other commands are carried out.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from eventstore import ANY, Appended, EventStore, Key, NewEvent, Writer, WrongExpectedPosition
from server.conversations import idempotency_keys
from server.conversations.command_types import CancelGeneration, RequestGeneration, StartConversation
from server.conversations.conversation_state import Conversation
from server.conversations.decide import decide_request, decide_start
from server.event_types import EPHEMERAL, conversation_category
from server.generations.executors import FIRST_EPOCH
from server.generations.supervisor import Supervisor
from server.ids import new_id
from server.message_parts import files_of
from server.problem import Problem, unavailable
from server.runtime.commands.keyed_appends import MAX_TRIES, KeyedAppends
from server.runtime.commands.message_files import MessageFiles
from server.runtime.run_limits import RunLimits
from server.runtime.run_scheduling import RunScheduler
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import StreamDrain
from server.webhooks.webhooks import Webhooks

QUICK_TRIES, PAUSE_SECONDS = 5, 0.01
"""After so many tries without a pause, each waits a random time of up to this much more than the one before."""


class GenerationRequests:
    """The requests of one process. `cancel` ends a generation, for requests that interrupt it."""

    def __init__(
        self,
        store: EventStore,
        appends: KeyedAppends,
        files: MessageFiles,
        states: StateCache,
        supervisor: Supervisor,
        scheduler: RunScheduler,
        webhooks: Webhooks,
        drain: StreamDrain,
        max_runs: int,
        limits: RunLimits,
        cancel: Callable[[str, CancelGeneration, Key | None], Awaitable[bool]],
    ) -> None:
        self._store = store
        self._appends = appends
        self._files = files
        self._states = states
        self._supervisor = supervisor
        self._scheduler = scheduler
        self._webhooks = webhooks
        self._drain = drain
        self._max_runs = max_runs
        self._limits = limits
        self._cancel = cancel

    async def request(self, conversation: str | None, command: RequestGeneration, key: Key | None) -> Appended:
        """As `CommandHandlers.request_generation`, for a conversation that exists. Run it detached."""
        # The key comes first: a repeated request is answered as before, even where a new one would be refused now.
        earlier = await self._appends.earlier(key)
        if earlier is not None:
            return earlier
        try:
            async with self._limits.starting(command.tenant, command.by, command.generation, conversation):
                appended = await self._request_new(conversation, await self._with_files(command), key)
        except Problem as problem:
            await self._webhooks.abandon(command.generation)
            # The run that takes the caller's last place may be that of this very request, sent twice at once.
            earlier = await self._appends.earlier(key) if problem.status == 429 else None
            if earlier is None:
                raise
            return earlier
        # 1. The request makes its webhook. 2. The conversation changes before the append. 3. Decided again, it is
        # refused, or was made before. Its webhook must not keep its place. One that was started is not touched.
        await self._webhooks.abandon(command.generation)
        return appended

    async def _with_files(self, command: RequestGeneration) -> RequestGeneration:
        """The command with the types and sizes of the files in its input."""
        fields = {f"input.{number}.content": message.content for number, message in enumerate(command.input)}
        contents = await self._files.look_up(command.tenant, fields)
        messages = zip(command.input, contents, strict=True)
        return replace(command, input=tuple(replace(one, content=content) for one, content in messages))

    async def _request_new(
        self, conversation: str | None, command: RequestGeneration, key: Key | None
    ) -> Appended:
        for tried in range(MAX_TRIES):
            state, opening = await self._open(conversation, command.tenant)
            try:
                resolved = self._scheduler.resolve(command)
                await self._files.must_exist(command.tenant, resolved.files, "input")
                if command.if_running == "interrupt" and state.open:
                    # Checked before anything is cancelled: a request that is refused, or that repeats an earlier
                    # one, must not interrupt a running generation.
                    self._check_request(state, resolved)
                    earlier = await self._appends.earlier(key)
                    if earlier is not None:
                        return earlier
                    await self._interrupt(state, resolved)
                    continue
                events = decide_request(state, resolved)
                # No `await` from here until `expecting`: else another request could take the last free place.
                self._check_request(state, resolved)
            except Problem:
                # The generation that is in the way may be this very request, sent twice at once.
                earlier = await self._appends.earlier(key)
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
        digests = {part.digest for message in command.input for part in files_of(message.content)}
        with self._supervisor.expecting(command.generation), self._orphan_on_error(state.id, command):
            await self._files.keep(command.tenant, state.id, {*digests, *command.files}, "input")
            if command.webhook is not None:
                url, told = command.webhook.url, command.webhook.events
                await self._webhooks.register(command.generation, state.id, url, command.tenant, told)
            appended = await self._appends.append(
                state.id,
                events,
                key,
                expected=ANY if queues else state.position,
                writer=Writer(command.generation, FIRST_EPOCH, 1),
                claims=(Key(idempotency_keys.GENERATION, command.generation),),
                category=EPHEMERAL if command.ephemeral else conversation_category(command.tenant),
            )
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
            self._webhooks.check_url(command.webhook.url)
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
