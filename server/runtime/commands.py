"""Carries out commands, the same for every transport: decide on the fold, append, act.

A command runs in the runtime's own nursery: a client that goes away in the middle of its request cancels
nothing that was begun (between the append of a request and the start of its run, say). It knows no HTTP.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
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
    StoreUnavailable,
    StreamUnknown,
    Writer,
    WrongExpectedPosition,
)
from server import logs
from server.errors import Problem, not_found, unavailable
from server.events import CONVERSATION, GENERATION_SCOPE
from server.generation import decide
from server.generation.commands import CancelGeneration, PostMessage, RequestGeneration, StartConversation
from server.generation.prompt import prompt_for
from server.generation.state import Conversation
from server.generation.supervisor import EPOCH, Run, Supervisor
from server.ids import looks_right
from server.ids import new as new_id
from server.runtime.drain import Drain
from server.runtime.folds import Folds
from server.upstream import BadParameters, Prompt, UnknownModel, Upstream, Upstreams

T = TypeVar("T")

DECIDE_TRIES = 20
CANCEL_SECONDS = 5.0


class Commands:
    """The commands of one process. Each returns where its events are; `repeated` ones stood there before.

    Every one raises `Problem` (`key_reused`; 404 where a name is unknown) and `StoreUnavailable`.
    """

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        folds: Folds,
        supervisor: Supervisor,
        upstreams: Upstreams,
        drain: Drain,
        most_runs: int,
    ) -> None:
        self._store = store
        self._nursery = nursery
        self._folds = folds
        self._supervisor = supervisor
        self._upstreams = upstreams
        self._drain = drain
        self._most_runs = most_runs
        self._context = copy_context()

    async def start_conversation(self, command: StartConversation, key: Key | None) -> Appended:
        """A new conversation."""
        events = decide.start_conversation(command)
        name = new_id("conv")
        appended = await self._detached(partial(self._append, name, events, key, expected=NO_STREAM))
        self._folds.follow(Conversation(name), events, appended)
        return appended

    async def post_message(self, conversation: str, command: PostMessage, key: Key | None) -> Appended:
        """One message."""
        await self._must_exist(conversation)
        events = decide.post_message(command)
        return await self._detached(partial(self._append, conversation, events, key))

    async def request_generation(
        self, conversation: str | None, command: RequestGeneration, key: Key | None
    ) -> Appended:
        """Appends the request and starts the run; without a conversation, in a new one of its own.

        More `Problem`s: 409 `generation_running`, 422 (model, parameters), 503 (full, stopping).
        """
        if conversation is not None:
            await self._must_exist(conversation)
        return await self._detached(partial(self._request, conversation, command, key))

    async def cancel_generation(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        """Ends the generation, waits (5 s at most) for its upstream to close, and says whether it did."""
        return await self._detached(partial(self._cancel, conversation, command, key))

    async def _request(self, conversation: str | None, command: RequestGeneration, key: Key | None) -> Appended:
        # First: a repeated request is answered as before, even where a new one would be refused by now.
        earlier = await self._earlier(key)
        if earlier is not None:
            return earlier
        for _ in range(DECIDE_TRIES):
            name, state, opening = await self._open(conversation)
            try:
                events = decide.request_generation(state, command)
                run = self._prepare(name, state, command)
            except Problem:
                # What stands in the way may be this very request, sent twice at once.
                earlier = await self._earlier(key)
                if earlier is None:
                    raise
                return earlier
            try:
                with self._supervisor.expecting(command.generation):
                    appended = await self._append(
                        name,
                        (*opening, *events),
                        key,
                        expected=state.position,
                        writer=Writer(command.generation, EPOCH, 1),
                        claim=Key(GENERATION_SCOPE, command.generation),
                    )
                    self._folds.follow(state, (*opening, *events), appended)
                    if not appended.repeated or await self._is_ours(appended, command):
                        self._supervisor.start(run)
            except WrongExpectedPosition:
                continue
            return appended
        raise unavailable("The conversation changed faster than the request could be decided. Try again.")

    async def _open(self, conversation: str | None) -> tuple[str, Conversation, tuple[NewEvent, ...]]:
        if conversation is not None:
            return conversation, await self._folds.latest(conversation), ()
        name = new_id("conv")
        return name, Conversation(name), decide.start_conversation(StartConversation(None, None))

    async def _is_ours(self, appended: Appended, command: RequestGeneration) -> bool:
        # "Repeated" may mean this very request, sent twice over a lost connection: then nobody else starts it.
        try:
            event = await self._store.read_one(appended.stream, appended.last)
        except StoreUnavailable:
            return False  # not known now; the sweep ends it if it was ours
        return event is not None and event.tag == command.generation

    def _prepare(self, conversation: str, state: Conversation, command: RequestGeneration) -> Run:
        upstream, prompt = self._prompt(state, command)
        self._drain.refuse_if_begun()
        if self._supervisor.load >= self._most_runs:  # no await until the run is expected: none slips in
            raise Problem(
                503,
                "overloaded",
                f"This server runs {self._most_runs} generations at most, and all are taken. Try again soon.",
                retry_after=2.0,
                extra={"limit": self._most_runs},
            )
        return Run(conversation, command.generation, upstream, prompt, command.model)

    def _prompt(self, state: Conversation, command: RequestGeneration) -> tuple[Upstream, Prompt]:
        try:
            upstream, model = self._upstreams.resolve(command.model)
            prompt = prompt_for(state, command, model)
            upstream.check(prompt)
        except UnknownModel as error:
            raise Problem(422, "unknown_model", str(error)) from None
        except BadParameters as error:
            detail, extra = f"{error.field}: {error.message}", {"field": error.field}
            raise Problem(422, "invalid_parameters", detail, extra=extra) from None
        return upstream, prompt

    async def _cancel(self, conversation: str, command: CancelGeneration, key: Key | None) -> bool:
        await self._earlier(key)
        state = await self._folds.latest(conversation)
        events = decide.cancel_generation(state, command)
        if events:
            # Fenced: it ended, or somebody cancelled it, between the look and the append. As good.
            with suppress(Fenced):
                await self._append(conversation, events, key, closes=command.generation)
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

    async def _append(
        self,
        conversation: str,
        events: tuple[NewEvent, ...],
        key: Key | None,
        *,
        expected: int = ANY,
        writer: Writer | None = None,
        closes: str | None = None,
        claim: Key | None = None,
    ) -> Appended:
        keys = tuple(one for one in (key, claim) if one is not None)
        append = Append(conversation, events, expected, writer, closes, keys, category=CONVERSATION)
        try:
            return await self._store.append(append)
        except KeyReused:
            raise _key_reused() from None

    async def _earlier(self, key: Key | None) -> Appended | None:
        """What was appended with this key before, if anything."""
        found = await self._store.find_key(key.scope, key.name) if key else None
        if key is None or found is None:
            return None
        if found.digest != key.digest:
            raise _key_reused()
        return Appended(found.stream, found.first, found.last, None, repeated=True)

    async def _must_exist(self, conversation: str) -> None:
        if not looks_right(conversation, "conv"):
            raise not_found("conversation")
        try:
            await self._store.head(conversation)
        except StreamUnknown:
            raise not_found("conversation") from None

    async def _detached(self, act: Callable[[], Awaitable[T]]) -> T:
        results: list[T] = []
        errors: list[Exception] = []
        done = trio.Event()

        async def do() -> None:
            try:
                results.append(await act())
            except Exception as error:
                errors.append(error)  # the asker's, not the nursery's
            finally:
                done.set()

        logs.detached(self._context).run(self._nursery.start_soon, do)
        await done.wait()
        if errors:
            raise errors[0]
        if not results:  # the process is going down, and took the act with it
            raise unavailable("The server is stopping, and may not have done this. Ask again with the same key.")
        return results[0]


def _key_reused() -> Problem:
    return Problem(
        422,
        "key_reused",
        "This idempotency key was used before with another body. Take a new key for a new request.",
    )
