"""Appends of commands: with the client's idempotency key, and carried to their end whoever waits for them.

Owns the keys of an append, the look for what was appended with a key before, and the tasks in which commands run.
Must not know what a command decides, nor HTTP.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import TypeVar

import trio

from eventstore import (
    ANY,
    Append,
    Appended,
    EventStore,
    Key,
    KeyReused,
    NewEvent,
    Rewound,
    StreamUnknown,
    Writer,
)
from server.event_types import CONVERSATION
from server.ids import is_valid_id
from server.observability import logs
from server.problem import Problem, not_found, unavailable

MAX_TRIES = 20
"""How often a command is decided again on a state that has changed meanwhile."""

T = TypeVar("T")


class KeyedAppends:
    """The appends of one process's commands, in the tasks of `nursery`."""

    def __init__(self, store: EventStore, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._context = copy_context()

    async def append(
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
            await self.earlier(key)
            raise

    async def earlier(self, key: Key | None) -> Appended | None:
        """What was appended with this key before, if anything. `Problem` 422 `key_reused`: with another body."""
        found = await self._store.find_key(key.scope, key.name) if key else None
        if key is None or found is None:
            return None
        if found.digest != key.digest:
            raise _key_reused()
        return Appended(found.stream, found.first, found.last, None, repeated=True)

    async def must_exist(self, conversation: str) -> None:
        """Raises `Problem` 404 where there is no such conversation."""
        if not is_valid_id(conversation, "conv"):
            raise not_found("conversation")
        try:
            await self._store.head(conversation)
        except Rewound:
            # The log went back behind what this process had read. The store has forgotten that by now: ask again.
            await self.must_exist(conversation)
        except StreamUnknown:
            raise not_found("conversation") from None

    async def run_detached(self, act: Callable[[], Awaitable[T]]) -> T:
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
