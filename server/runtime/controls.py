"""Carries out what people tell a generation that runs: steer, decide on a call, finish a call.

Each is decided on the fold and appended while the generation's writer is open; a decision, or an outcome, claims
its call's key in the same transaction. So of two who come at once, from whatever process, one is taken, and the
other is decided again on what he finds then.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from eventstore import Appended, EventStore, Fenced, Key, KeyReused, NewEvent
from server.errors import Problem, unavailable
from server.generation.commands import DecideCall, FinishCall, SteerGeneration
from server.generation.decide_controls import DECISION, OUTCOME, decide_call, finish_call, steer_generation
from server.generation.state import Conversation, ToolCall
from server.runtime.acting import Acting
from server.runtime.state_cache import StateCache
from server.workflows import AnyTool, BadArguments, ClientTool, Registry

Decide = Callable[[Conversation], Awaitable[Sequence[NewEvent]]]

TRIES = 20


class Controls:
    """One process's. Each command returns where its event is; a `repeated` one stood there before."""

    def __init__(self, store: EventStore, acting: Acting, folds: StateCache, registry: Registry) -> None:
        self._store = store
        self._acting = acting
        self._folds = folds
        self._registry = registry

    async def steer_generation(self, conversation: str, command: SteerGeneration, key: Key | None) -> Appended:
        """A parameter of the running generation. `Problem` as `decide_controls.steer_generation`."""

        async def decide(state: Conversation) -> Sequence[NewEvent]:
            found = state.generation(command.generation)
            name = found.workflow if found is not None else None
            return steer_generation(state, command, self._registry.workflows.get(name) if name else None)

        return await self._tell(conversation, command.generation, decide, key, None)

    async def decide_call(self, conversation: str, command: DecideCall, key: Key | None) -> Appended:
        """A person's decision on a call. `Problem` as `decide_controls.decide_call`."""

        async def decide(state: Conversation) -> Sequence[NewEvent]:
            now = await self._store.clock()
            return decide_call(state, command, now, partial(self._check, state, command.generation))

        return await self._tell(conversation, command.generation, decide, key, _claim(DECISION, command.call, key))

    async def finish_call(self, conversation: str, command: FinishCall, key: Key | None) -> Appended:
        """What a client's tool came to. `Problem` as `decide_controls.finish_call`."""

        async def decide(state: Conversation) -> Sequence[NewEvent]:
            return finish_call(state, command)

        return await self._tell(conversation, command.generation, decide, key, _claim(OUTCOME, command.call, key))

    def _check(
        self, state: Conversation, generation: str, call: ToolCall, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        tool = _tool(state, generation, call, self._registry)
        if tool is None:
            return dict(arguments)  # a question, say: nothing here knows better than who decides
        try:
            return tool.check(arguments)
        except BadArguments as error:
            raise Problem(
                422, "invalid_arguments", f"{call.name}: {error}", extra={"field": "arguments"}
            ) from None

    async def _tell(
        self, conversation: str, generation: str, decide: Decide, key: Key | None, claim: Key | None
    ) -> Appended:
        return await self._acting.detached(partial(self._tell_now, conversation, generation, decide, key, claim))

    async def _tell_now(
        self, conversation: str, generation: str, decide: Decide, key: Key | None, claim: Key | None
    ) -> Appended:
        # First: a repeated command is answered as before, even where a new one would be refused by now.
        earlier = await self._acting.earlier(key)
        if earlier is not None:
            return earlier
        for _ in range(TRIES):
            state = await self._folds.latest(conversation)
            try:
                events = tuple(await decide(state))
            except Problem:
                # What stands in the way may be this very command, sent twice at once.
                earlier = await self._acting.earlier(key)
                if earlier is None:
                    raise
                return earlier
            try:
                appended = await self._acting.append(conversation, events, key, claim=claim, during=generation)
            except Fenced:
                continue  # it ended meanwhile: the next look says so
            except KeyReused:  # somebody has the call: the next look says who, if it was not this very command
                earlier = await self._acting.earlier(key)
                if earlier is not None:
                    return earlier
                continue
            self._folds.follow(state, events, appended)  # it is answered with the state there
            return appended
        raise unavailable("The generation changed faster than this could be decided. Try again.")


def _tool(state: Conversation, generation: str, call: ToolCall, registry: Registry) -> AnyTool | None:
    if call.is_question:
        return None
    if not call.client:
        return registry.tools.get(call.name)
    found = state.generation(generation)
    declared = [one for one in found.tools if not isinstance(one, str)] if found is not None else []
    return next((ClientTool(one) for one in declared if one["name"] == call.name), None)


def _claim(scope: str, call: str, key: Key | None) -> Key:
    """Who comes first has the call. With the client's key the same command repeats itself, nothing else does."""
    named = hashlib.sha256(f"{key.scope}\n{key.name}\n".encode() + (key.digest or b"")) if key else None
    return Key(scope, call, digest=named.digest() if named else secrets.token_bytes(32))
