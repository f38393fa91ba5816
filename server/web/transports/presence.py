"""Who is connected to a conversation just now: a state, never a fact of the log.

Owns who is there, and when each socket has to be told. Nothing waits in a row: a socket has one mark that there is
something new, and its frame is made when its turn to send has come, so a slow one gets the newest only. It knows
the sockets of this process and no others: of several servers on one database, each tells of its own. Who vanished
without a word is there until the connection is given up. Must not know how frames are sent.
"""

import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice

import msgspec
import trio

from server.wire import websocket as frames
from server.wire.websocket import Person

MOST_LISTED = 200
"""People in a frame; `count` says how many there are."""
FRAMES_PER_SECOND, LONGEST_PAUSE = 200, 5.0
"""Of one conversation, about. Each change is told to all: a crowd that comes at once would cost its square."""


class Present:
    """One socket's place: what it is to be told, and when. `person` is how the others see it.

    `due`: when the next frame is to be sent, by trio's clock; infinite while there is no news. `on_news` is called
    when that changes from infinite.
    """

    __slots__ = ("_room", "due", "on_news", "person", "shown")

    def __init__(self, person: Person, room: "_Room") -> None:
        self.person = person
        self.due = -math.inf  # who is new has been told nothing
        self.shown = -math.inf
        self.on_news: Callable[[], None] | None = None
        self._room = room

    def frame(self) -> str:
        """How things stand now; that is no news any more."""
        self.due = math.inf
        self.shown = self._room.clock()
        return frames.presence(self.person.connection, self._room.people(), len(self._room.here))

    @property
    def pause(self) -> float:
        """Seconds to let changes come together before the next frame."""
        return min(LONGEST_PAUSE, len(self._room.here) / FRAMES_PER_SECOND)

    def tell(self) -> None:
        """Somebody came or went."""
        if self.due == math.inf:
            self.due = self.shown + self.pause
            if self.on_news is not None:
                self.on_news()


class Presence:
    """Of one process: who is in which conversation. `clock` is the one that `Present.due` is read against."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._rooms: dict[str, _Room] = {}

    @contextmanager
    def enter(self, conversation: str, author: str | None, by: str) -> Iterator[Present]:
        """A place for as long as the context is open. `author` is the name that the client gave itself, if any."""
        room = self._rooms.setdefault(conversation, _Room(self._clock))
        present = room.add(author, by)
        try:
            yield present
        finally:
            room.remove(present)
            if not room.here:
                del self._rooms[conversation]

    def __len__(self) -> int:
        """Conversations that somebody is in."""
        return len(self._rooms)


class _Room:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.here: dict[str, Present] = {}
        self._newest = ""
        self._people: msgspec.Raw | None = None

    def add(self, author: str | None, by: str) -> Present:
        now = datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"
        self._newest = max(self._newest, now)  # a clock that is set back would mix up who came first
        present = Present(Person(secrets.token_hex(6), author, by, self._newest), self)
        self.here[present.person.connection] = present
        self._changed()
        return present

    def remove(self, present: Present) -> None:
        del self.here[present.person.connection]
        self._changed()

    def people(self) -> msgspec.Raw:
        """Who came first is first. Encoded once a change, for all."""
        if self._people is None:
            listed = islice(self.here.values(), MOST_LISTED)
            self._people = frames.people([present.person for present in listed])
        return self._people

    def _changed(self) -> None:
        self._people = None
        for present in self.here.values():
            present.tell()
