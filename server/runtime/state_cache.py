"""Folds at hand: the state of a conversation, at its head or at any position.

The state is kept per conversation and moved on by the events since, so a poll costs those and nothing more.
Every answer rests on a read of the primary made after the asking: "nothing new" is never said from memory.
Cold, it starts from the newest stored snapshot; it stores one itself when the log has grown by a part.
"""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import trio

from eventstore import (
    Appended,
    EventStore,
    Head,
    NewEvent,
    Snapshot,
    StoreError,
    StreamUnknown,
    Trimmed,
    made,
)
from server import logs
from server.errors import not_found
from server.generation.fold import fold
from server.generation.state import FORM, Conversation

log = logs.get("folds")

PAGE = 2_000
STORE_EVERY = 500
"""A snapshot is stored after this many events, or an eighth of the log if that is more: so the snapshots of a
long conversation take a multiple of its text, not its square."""
KEPT_BYTES = 64 * 1024 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Conversation).decode


class Folds:
    """The folds of one process. `nursery` is where snapshots are stored, off the readers' way."""

    def __init__(self, store: EventStore, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._kept: OrderedDict[str, tuple[Conversation, int]] = OrderedDict()
        self._size = 0
        self._stored: dict[str, int] = {}

    async def latest(self, conversation: str) -> Conversation:
        """The state at the primary's head. `Problem` 404 if there is no such conversation.

        Raises `Trimmed` where events are gone that no stored snapshot covers.
        """
        state, _ = await self.look(conversation)
        return state

    def follow(self, state: Conversation, new: Sequence[NewEvent], appended: Appended) -> None:
        """These events were just appended, right behind this state: so much is known without a read."""
        if appended.at is not None and appended.first == state.position + 1:
            self._keep(fold(state, made(new, appended.first, appended.at)))

    async def look(self, conversation: str) -> tuple[Conversation, Head]:
        """As `latest`, and where the log ended and began at the last read for it."""
        state = self._known(conversation) or await self._load(conversation, None)
        while True:
            try:
                found = await self._store.read(conversation, state.position, PAGE)
            except StreamUnknown:
                raise not_found("conversation") from None
            except Trimmed:
                # What is kept here ends before what is left; somebody else may have stored a later fold.
                stored = await self._load(conversation, None)
                if stored.position <= state.position:
                    raise
                state = stored
                continue
            # Another reader may have moved the kept state on meanwhile: start from whichever is further.
            known = self._known(conversation)
            if known is not None and known.position > state.position:
                state = known
            state = fold(state, (event for event in found.events if event.position > state.position))
            self._keep(state)
            if state.position >= found.head:
                return state, Head(state.position, found.earliest)

    async def at(self, conversation: str, position: int) -> Conversation:
        """The state at a position, which is known to be in the log."""
        known = self._known(conversation)
        if known is not None and known.position <= position:
            state = known
        else:
            state = await self._load(conversation, position)
        while state.position < position:
            found = await self._store.read(conversation, state.position, min(PAGE, position - state.position))
            state = fold(state, found.events)
        return state

    def forget(self, conversation: str) -> None:
        """It was erased."""
        gone = self._kept.pop(conversation, None)
        if gone is not None:
            self._size -= gone[1]
        self._stored.pop(conversation, None)

    def _known(self, conversation: str) -> Conversation | None:
        found = self._kept.get(conversation)
        if found is None:
            return None
        self._kept.move_to_end(conversation)
        return found[0]

    def _keep(self, state: Conversation) -> None:
        before = self._kept.get(state.id)
        if before is not None:
            if before[0].position >= state.position:
                return
            self._size -= before[1]
        size = _size(state)
        self._kept[state.id] = (state, size)
        self._kept.move_to_end(state.id)
        self._size += size
        while self._size > KEPT_BYTES and len(self._kept) > 1:
            gone, (_, size) = self._kept.popitem(last=False)
            self._size -= size
            self._stored.pop(gone, None)
        since = state.position - self._stored.setdefault(state.id, 0)
        if since >= max(STORE_EVERY, state.position // 8):
            self._nursery.start_soon(self._save, state, self._stored[state.id])
            self._stored[state.id] = state.position

    async def _load(self, conversation: str, at_most: int | None) -> Conversation:
        bound = 2**62 if at_most is None else at_most
        snapshot = await self._store.load_snapshot(conversation, FORM, bound)
        if snapshot is None:
            return Conversation(conversation)
        if at_most is None:
            self._stored[conversation] = max(self._stored.get(conversation, 0), snapshot.position)
        return _decode(snapshot.data)

    async def _save(self, state: Conversation, stored_before: int) -> None:
        try:
            await self._store.save_snapshot(state.id, FORM, Snapshot(state.position, _encode(state).decode()))
        except StoreError as error:
            self._stored[state.id] = stored_before  # so that the next events try again
            log.warning("snapshot not stored", conversation=state.id, why=str(error))


def _size(state: Conversation) -> int:
    """About the bytes it takes in memory. JSON values that clients send take some ten times their text."""
    size = 2_000 + 10 * len(_encode(state.metadata))
    size += sum(len(message.content) + 300 for message in state.messages)
    for found in state.generations:
        size += 1_000 + len(found.text)
        size += 10 * len(_encode((found.parameters, found.input, found.tools, found.result, found.tool_calls)))
    return size
