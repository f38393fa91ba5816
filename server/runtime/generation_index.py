"""Where generations stand in the log: conversation, position of the request, position of the end.

Owns a bounded memory of these. Nothing in it changes, as long as the log does not go back to an earlier state: a
generation stays where it was requested, and nothing of it follows its terminal event. Many tasks that ask for one
generation at the same time cause one read. Must not know states or HTTP.
"""

from collections import OrderedDict

from eventstore import EventStore, Place
from server.conversations import idempotency_keys
from server.runtime.keyed_locks import KeyedLocks

MAX_PLACES = 20_000
"""Of some 400 bytes each: 8 MiB."""


class GenerationIndex:
    """The index of one process: the `max_places` generations that were used last."""

    def __init__(self, store: EventStore, max_places: int = MAX_PLACES) -> None:
        self._store = store
        self._max_places = max_places
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._ends: dict[str, int] = {}
        self._locks = KeyedLocks()
        self._incarnation = store.incarnation

    def __len__(self) -> int:
        return len(self._places)

    async def find(self, generation: str) -> Place | None:
        """Where a generation was requested; `last` is the position of the request.

        None: there is no such generation, said by a read that began after the call.
        """
        found = self.known(generation)
        if found is not None:
            return found
        async with self._locks.of(generation):
            found = self.known(generation)  # the task that held the lock before may have found it
            if found is None:
                found = await self._store.find_key(idempotency_keys.GENERATION, generation)
                if found is not None:
                    self.remember(generation, found)
        return found

    def known(self, generation: str) -> Place | None:
        """As `find`, from memory alone."""
        self._forget_if_rewound()
        found = self._places.get(generation)
        if found is not None:
            self._places.move_to_end(generation)
        return found

    def remember(self, generation: str, place: Place) -> None:
        """Keeps where a generation was requested."""
        self._forget_if_rewound()
        self._places[generation] = place
        self._places.move_to_end(generation)
        if len(self._places) > self._max_places:
            gone, _ = self._places.popitem(last=False)
            self._ends.pop(gone, None)

    def end(self, generation: str) -> int | None:
        """The position of a generation's terminal event, if that is known."""
        self._forget_if_rewound()
        return self._ends.get(generation)

    def ended(self, generation: str, position: int) -> None:
        """Keeps the position of a generation's terminal event."""
        self._forget_if_rewound()
        if generation in self._places:
            self._ends[generation] = position

    def _forget_if_rewound(self) -> None:
        """Forgets everything where the log went back to an earlier state: positions may mean other events now."""
        if self._incarnation != self._store.incarnation:
            self._incarnation = self._store.incarnation
            self._places.clear()
            self._ends.clear()
