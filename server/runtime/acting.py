"""What all commands have in common: an append with the client's key, what that key did before, and to be detached.

A command runs in the runtime's own nursery: a client that goes away in the middle of its request cancels
nothing that was begun (between the append of a request and the start of its run, say). It knows no HTTP.
"""

from collections.abc import Awaitable, Callable
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
from server import logs
from server.errors import Problem, not_found, unavailable
from server.events import CONVERSATION
from server.ids import looks_right

T = TypeVar("T")


class Acting:
    """One process's. Its methods raise `Problem` and `StoreUnavailable`."""

    def __init__(self, store: EventStore, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._context = copy_context()

    async def append(
        self,
        conversation: str,
        events: tuple[NewEvent, ...],
        key: Key | None,
        *,
        expected: int = ANY,
        writer: Writer | None = None,
        closes: str | None = None,
        during: str | None = None,
        claim: Key | None = None,
        category: str = CONVERSATION,
    ) -> Appended:
        """Appends, and claims the client's key and a key of our own with it.

        Raises `KeyReused` where ours is taken, `Problem` 422 `key_reused` where the client's is.
        """
        keys = tuple(one for one in (key, claim) if one is not None)
        append = Append(conversation, events, expected, writer, closes, keys, category=category, during=during)
        try:
            return await self._store.append(append)
        except KeyReused:
            if claim is None:
                raise key_reused() from None
            await self.earlier(key)
            raise

    async def earlier(self, key: Key | None) -> Appended | None:
        """What was appended with this key before, if anything. `Problem` 422 `key_reused`: with another body."""
        found = await self._store.find_key(key.scope, key.name) if key else None
        if key is None or found is None:
            return None
        if found.digest != key.digest:
            raise key_reused()
        return Appended(found.stream, found.first, found.last, None, repeated=True)

    async def must_exist(self, conversation: str) -> None:
        """`Problem` 404 where there is no such conversation."""
        if not looks_right(conversation, "conv"):
            raise not_found("conversation")
        try:
            await self._store.head(conversation)
        except Rewound:  # which is nothing to whoever writes: what was held here is forgotten now
            await self.must_exist(conversation)
        except StreamUnknown:
            raise not_found("conversation") from None

    async def detached(self, act: Callable[[], Awaitable[T]]) -> T:
        """Does it to its end, whatever becomes of the asker."""
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


def key_reused() -> Problem:
    """The client's key was used for something else."""
    return Problem(
        422,
        "key_reused",
        "This idempotency key was used before with another body. Take a new key for a new request.",
    )
