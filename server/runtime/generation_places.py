"""Where generations stand in the log: their conversation, the position of their request, that of their end.

What is known here never changes: a generation stays where it was requested, and nothing follows its terminal
event. So it is answered from memory, and looked for once for all who ask at the same time. It knows no states and
no HTTP.
"""

from collections import OrderedDict

from eventstore import EventStore, Place
from server.events import GENERATION_SCOPE
from server.runtime.keyed_locks import KeyedLocks

PLACES_KEPT = 20_000
"""Of some 400 bytes each: 8 MiB."""


class GenerationPlaces:
    """The places of one process, those that were used last."""

    def __init__(self, store: EventStore, most: int = PLACES_KEPT) -> None:
        self._store = store
        self._most = most
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._ends: dict[str, int] = {}
        self._locks = KeyedLocks()
        self._incarnation = store.incarnation

    def __len__(self) -> int:
        return len(self._places)

    async def find(self, generation: str) -> Place | None:
        """Where it was requested; `last` is the request itself. None, by a read of after the asking: unknown."""
        found = self.known(generation)
        if found is not None:
            return found
        async with self._locks.of(generation):
            found = self.known(generation)  # whoever was in front has found it
            if found is None:
                found = await self._store.find_key(GENERATION_SCOPE, generation)
                if found is not None:
                    self.remember(generation, found)
        return found

    def known(self, generation: str) -> Place | None:
        """The same from memory."""
        self._heed_rewinds()
        found = self._places.get(generation)
        if found is not None:
            self._places.move_to_end(generation)
        return found

    def remember(self, generation: str, place: Place) -> None:
        """It was requested there."""
        self._heed_rewinds()
        self._places[generation] = place
        self._places.move_to_end(generation)
        if len(self._places) > self._most:
            gone, _ = self._places.popitem(last=False)
            self._ends.pop(gone, None)

    def end(self, generation: str) -> int | None:
        """The position of its terminal event, if that is known."""
        self._heed_rewinds()
        return self._ends.get(generation)

    def ended(self, generation: str, position: int) -> None:
        """Its terminal event stands there."""
        self._heed_rewinds()
        if generation in self._places:
            self._ends[generation] = position

    def _heed_rewinds(self) -> None:
        """Where the log went back, what never changes has changed."""
        if self._incarnation != self._store.incarnation:
            self._incarnation = self._store.incarnation
            self._places.clear()
            self._ends.clear()
