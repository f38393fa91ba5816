"""The states of conversations that this process keeps in memory: at the head, and at positions that were asked
for.

A state at the head is moved on by the events since, so a look costs those events and no more. Every answer about
the head rests on a read of the primary that began after the call: "nothing new" is never said from memory. A state
that is not in memory is made once for all tasks that ask for it: from the newest stored snapshot and the events
behind it. Owns when snapshots are stored. Must not know HTTP or a transport.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice

import trio

from eventstore import (
    Appended,
    Event,
    EventStore,
    Head,
    NewEvent,
    Rewound,
    Snapshot,
    StoreError,
    StreamUnknown,
    Trimmed,
    committed_events,
)
from server.conversations.conversation_state import Conversation
from server.conversations.fold import ConversationFold, fold
from server.conversations.stored_state import FORM, OLDER_FORMS, from_stored, to_stored
from server.observability import logs
from server.problem import not_found
from server.runtime.keyed_locks import KeyedLocks
from server.runtime.past_states import PastStates

log = logs.get("state_cache")

PAGE = 2_000
"""Events in one read, where many are to be folded."""
FEW = 256
"""Events in one read, where few are expected. A task that is further behind waits for the one that catches up for
all."""
PIECE, PIECE_BYTES = 500, 256 * 1024
"""Events, and characters of them, that are folded without a checkpoint."""
KEEP_EVERY = 500
"""On the way to a past position one state is kept for so many events: the next position asked for may be near."""
NEAR = 2_000
"""Up to so many events behind a state in memory are folded; for more, a stored snapshot is looked for first."""
REPLAYS = 4
"""Past states that are made at the same time. Others wait for a place; readers of the head do not."""
STORE_EVERY = 500
"""A snapshot is stored after so many events, in a long log after up to an eighth of its events: so the snapshots
of a conversation take a multiple of its text, not its square. All processes store at the same positions
(`_snapshot_position`), and the store keeps one snapshot of each position."""
KEPT_BYTES = 64 * 1024 * 1024
"""What the states at the head may take in memory."""
PAST_BYTES = 32 * 1024 * 1024
"""What the states at past positions may take."""
ENTRY_BYTES = 400
"""What a state at the head takes beside its contents."""


class StateCache:
    """The states of one process. Snapshots are stored by tasks in `nursery`, so no reader waits for that."""

    def __init__(self, store: EventStore, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._kept: OrderedDict[str, Conversation] = OrderedDict()
        self._size = 0
        self._past = PastStates(PAST_BYTES)
        self._locks = KeyedLocks()
        self._replays = trio.CapacityLimiter(REPLAYS)
        self._incarnation = store.incarnation

    @property
    def size(self) -> int:
        """The bytes that all states here take in memory."""
        return self._size + self._past.size

    # -- at the head

    async def latest(self, conversation: str) -> Conversation:
        """The state at the primary's head.

        Raises `Problem` 404 where there is no such conversation, `Trimmed` where events are gone that no stored
        snapshot covers.
        """
        state, _ = await self.look(conversation)
        return state

    async def look(self, conversation: str) -> tuple[Conversation, Head]:
        """As `latest`, and where the log ended and began at that read.

        While nothing is new, the same object is returned again.
        """
        wanted = 0
        while True:
            state = self.known(conversation)
            if state is None or state.position < wanted:
                state, head = await self._catch_up(conversation, wanted)
                if head is not None:
                    return state, head
            of = self._store.incarnation
            try:
                found = await self._store.read_cached(conversation, state.position, FEW, seen=state.position)
            except StreamUnknown:
                raise not_found("conversation") from None
            except Rewound:
                self._drop(conversation)
                wanted = 0
                continue
            except Trimmed as trimmed:
                # The state here ends in front of the first event that is left: another process may have stored a
                # later one.
                wanted = trimmed.earliest - 1
                continue
            if of != self._store.incarnation:
                wanted = 0
                continue  # the log went back meanwhile: the events of this state may not be in it any more
            known = self.known(conversation)
            if known is not None and known.position > state.position:
                state = known  # another task has moved it on meanwhile
            if state.position < found.head and found.events and found.events[-1].position >= found.head:
                state = self._move(state, _behind(found.events, state.position))
            if state.position >= found.head:
                return state, Head(state.position, found.earliest)
            wanted = found.head

    def known(self, conversation: str) -> Conversation | None:
        """The state in memory, as of the last look by any task. There may be newer events in the log."""
        if self._incarnation != self._store.incarnation:
            self._forget_all()
        found = self._kept.get(conversation)
        if found is None:
            return None
        self._kept.move_to_end(conversation)
        return found

    def follow(self, state: Conversation, new: Sequence[NewEvent], appended: Appended) -> None:
        """Moves on the state on which a command was decided by the events that it appended: saves `at` a read."""
        if appended.at is not None and appended.first == state.position + 1:
            state = self._move(state, committed_events(new, appended.first, appended.at))
        if appended.stream == state.id:
            self._past.add(state, held=self.known(state.id))

    async def _catch_up(self, conversation: str, wanted: int) -> tuple[Conversation, Head | None]:
        """A state at `wanted` or later. One task reads and folds; the others wait for it.

        The head is that of this task's own read; None where another task has done the work.
        """
        async with self._locks.of(conversation):
            state = self.known(conversation)
            if state is not None and state.position >= wanted:
                return state, None
            of = self._store.incarnation
            if state is None:
                state = await self._load(conversation, None)
            folding = ConversationFold(state)
            while True:
                try:
                    found = await self._store.read(conversation, folding.position, PAGE, seen=folding.position)
                except StreamUnknown:
                    raise not_found("conversation") from None
                except Rewound as rewound:
                    # The log went back: a snapshot behind its present head may hold events that are gone.
                    of = self._store.incarnation
                    folding = ConversationFold(await self._load(conversation, rewound.head))
                    continue
                except Trimmed:
                    stored = await self._load(conversation, None, (FORM, *OLDER_FORMS))
                    if stored.position <= folding.position:
                        raise
                    folding = ConversationFold(stored)
                    continue
                due = _snapshot_position(found.head)
                for piece in _pieces(found.events):
                    if folding.position < due <= piece[-1].position:
                        here = due - folding.position
                        folding.add(piece[:here])
                        self._nursery.start_soon(self._save, folding.state())
                        folding.add(piece[here:])
                    else:
                        folding.add(piece)
                    await trio.lowlevel.checkpoint()
                if folding.position >= found.head:
                    break
                if not found.events:
                    raise RuntimeError(f"{conversation}: no event behind {folding.position} of {found.head}")
            state = folding.state()
            if of != self._store.incarnation:
                return state, None  # the log went back meanwhile: the caller looks again
            self._keep(state)
            return state, Head(state.position, found.earliest)

    def _move(self, state: Conversation, events: Sequence[Event]) -> Conversation:
        """The state after these events. It is kept; where a snapshot is due on the way, it is stored."""
        due = _snapshot_position(events[-1].position)
        if due > state.position:
            here = due - state.position
            state = fold(state, events[:here])
            self._nursery.start_soon(self._save, state)
            events = events[here:]
        state = fold(state, events)
        self._keep(state)
        return state

    def _keep(self, state: Conversation) -> None:
        kept = self._kept.get(state.id)
        if kept is not None:
            if kept.position >= state.position:
                return
            self._size -= kept.size + ENTRY_BYTES
        self._kept[state.id] = state
        self._kept.move_to_end(state.id)
        self._size += state.size + ENTRY_BYTES
        while self._size > KEPT_BYTES and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, conversation: str) -> None:
        gone = self._kept.pop(conversation, None)
        if gone is not None:
            self._size -= gone.size + ENTRY_BYTES
        self._past.forget(conversation)  # what the past states share with this one was counted here

    def forget(self, conversation: str) -> None:
        """Forgets a conversation that was erased."""
        self._drop(conversation)

    def _forget_all(self) -> None:
        """Forgets all states: the log went back, and may have gone on since, so any of them may be wrong."""
        self._incarnation = self._store.incarnation
        for conversation in list(self._kept):
            self._drop(conversation)
        self._past = PastStates(PAST_BYTES)

    # -- at a position

    async def at(self, conversation: str, position: int) -> Conversation:
        """The state at a position that is known to be in the log.

        It is made from the nearest state in memory, or from a stored snapshot that is nearer, and kept for a while
        with some states on the way. Raises `Trimmed` where its events are gone, `Erased`.
        """
        while True:
            of = self._store.incarnation
            state = await self._make(conversation, position)
            if of == self._store.incarnation:
                return state
            # The log went back meanwhile: the states that were made may mix events of both its pasts.
            self._past = PastStates(PAST_BYTES)

    async def _make(self, conversation: str, position: int) -> Conversation:
        found = self._nearest(conversation, position)
        if found.position == position:
            return found
        async with self._locks.of(f"{conversation} at"), self._replays:
            found = self._nearest(conversation, position)
            if not 0 < found.position >= position - NEAR:
                found = await self._stored_behind(found, position) or found
            try:
                return await self._replay(found, position)
            except Rewound:
                raise
            except Trimmed:
                stored = await self._stored_behind(found, position, (FORM, *OLDER_FORMS))
                if stored is None:
                    raise
                return await self._replay(stored, position)

    async def _stored_behind(
        self, state: Conversation, position: int, forms: Sequence[str] = (FORM,)
    ) -> Conversation | None:
        stored = await self._load(state.id, position, forms)
        if stored.position <= state.position:
            return None
        self._past.add(stored)
        return stored

    def _nearest(self, conversation: str, position: int) -> Conversation:
        """The nearest state in memory at a position, or in front of it."""
        known = self.known(conversation)  # comes first: where the log went back it forgets the past states too
        past = self._past.nearest(conversation, position)
        if known is not None and known.position <= position and (past is None or known.position > past.position):
            return known
        return past or Conversation(conversation)

    async def _replay(self, state: Conversation, position: int) -> Conversation:
        while state.position < position:
            most = min(PAGE, position - state.position)
            events = self._store.recent(state.id, state.position, most)
            if not events:
                try:
                    events = (await self._store.read(state.id, state.position, most, seen=position)).events
                except StreamUnknown:
                    raise not_found("conversation") from None
            if not events:
                raise RuntimeError(f"{state.id}: no event behind {state.position}, before {position}")
            for piece in _pieces(events, KEEP_EVERY):
                base, state = state, fold(state, piece)
                self._past.add(state, base)
                await trio.lowlevel.checkpoint()
        return state

    # -- stored snapshots

    async def _load(self, conversation: str, at_most: int | None, forms: Sequence[str] = (FORM,)) -> Conversation:
        """The newest stored state, up to a position, in the first of `forms` in which there is one."""
        bound = 2**62 if at_most is None else at_most
        for form in forms:
            snapshot = await self._store.load_snapshot(conversation, form, bound)
            if snapshot is None:
                continue
            try:
                return from_stored(snapshot.data)
            except Exception as error:  # whatever is wrong with it: the state is made of the events instead
                log.warning("stored snapshot not readable", conversation=conversation, why=type(error).__name__)
        return Conversation(conversation)

    async def _save(self, state: Conversation) -> None:
        try:
            await self._store.save_snapshot(state.id, FORM, Snapshot(state.position, to_stored(state)))
        except Exception as error:  # nothing is lost: a later snapshot is stored
            why = str(error) if isinstance(error, StoreError) else type(error).__name__
            log.warning("snapshot not stored", conversation=state.id, why=why)


def _snapshot_position(position: int) -> int:
    """The last position up to this one at which a snapshot is stored."""
    step = STORE_EVERY
    while step * 2 <= position // 8:
        step *= 2
    return position - position % step


def _behind(events: Sequence[Event], position: int) -> Sequence[Event]:
    """Those of consecutive events that stand behind a position."""
    return events[max(0, position + 1 - events[0].position) :]


def _pieces(events: Sequence[Event], most: int = PIECE) -> Iterator[Sequence[Event]]:
    """The events in pieces, each of which is folded without a checkpoint."""
    first = 0
    while first < len(events):
        last, size = first, 0
        for event in islice(events, first, first + most):
            size += len(event.data)
            last += 1
            if size > PIECE_BYTES:
                break
        yield events[first:last]
        first = last
