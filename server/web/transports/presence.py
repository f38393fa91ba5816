"""Who is connected to a conversation just now: a state, which is never written to the log.

Owns the list of participants of each conversation, and when each WebSocket has to be sent the list. There is no
queue: a participant has one due time, and its message is made when it can be sent, so that a slow client gets only
the newest list. Knows the WebSockets of this process only: of several servers on one database, each tells of its
own. A client that vanished without closing is listed until its connection is given up. Must not know how messages
are sent.
"""

import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice

import msgspec
import trio

from server import wire_formats
from server.wire_formats import Person

MAX_LISTED = 200
"""People in a message; its `count` says how many there are."""
MESSAGES_PER_SECOND, MAX_PAUSE = 200, 5.0
"""About how many presence messages one conversation sends, and the longest pause in seconds between two of a
client.

Each change is sent to everybody: without a limit, a crowd that comes at once would cost the square of its size."""


class Participant:
    """One WebSocket among those of its conversation. `person` is how the others see it.

    `due`: when its next presence message is to be sent, by trio's clock; infinite while nothing has changed.
    `on_change` is called when `due` changes from infinite.
    """

    __slots__ = ("_room", "due", "on_change", "person", "sent")

    def __init__(self, person: Person, room: "_Room") -> None:
        self.person = person
        self.due = -math.inf  # a new participant is sent the list at once
        self.sent = -math.inf
        self.on_change: Callable[[], None] | None = None
        self._room = room

    def message(self) -> str:
        """The presence message of this moment; the participant is then up to date."""
        self.due = math.inf
        self.sent = self._room.clock()
        return wire_formats.ws_presence(self.person.connection, self._room.people(), len(self._room.participants))

    @property
    def pause(self) -> float:
        """Seconds between two messages, in which changes come together."""
        return min(MAX_PAUSE, len(self._room.participants) / MESSAGES_PER_SECOND)

    def changed(self) -> None:
        """Somebody came or went: makes the next message due."""
        if self.due == math.inf:
            self.due = self.sent + self.pause
            if self.on_change is not None:
                self.on_change()


class Presence:
    """The participants of all conversations of one process. `clock` is that of `Participant.due`, in seconds."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._rooms: dict[str, _Room] = {}

    @contextmanager
    def enter(self, conversation: str, author: str | None, by: str) -> Iterator[Participant]:
        """A participant for as long as the context is open. `author` is the name that the client chose, if any."""
        room = self._rooms.setdefault(conversation, _Room(self._clock))
        participant = room.add(author, by)
        try:
            yield participant
        finally:
            room.remove(participant)
            if not room.participants:
                del self._rooms[conversation]

    def __len__(self) -> int:
        """Conversations that have participants."""
        return len(self._rooms)


class _Room:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.participants: dict[str, Participant] = {}
        self._newest = ""
        self._people: msgspec.Raw | None = None

    def add(self, author: str | None, by: str) -> Participant:
        now = datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"
        self._newest = max(self._newest, now)  # if the clock is set back, those who came later still sort later
        participant = Participant(Person(secrets.token_hex(6), author, by, self._newest), self)
        self.participants[participant.person.connection] = participant
        self._changed()
        return participant

    def remove(self, participant: Participant) -> None:
        del self.participants[participant.person.connection]
        self._changed()

    def people(self) -> msgspec.Raw:
        """The list for everybody, in the order in which they came. Encoded once a change."""
        if self._people is None:
            listed = islice(self.participants.values(), MAX_LISTED)
            self._people = wire_formats.ws_people([participant.person for participant in listed])
        return self._people

    def _changed(self) -> None:
        self._people = None
        for participant in self.participants.values():
            participant.changed()
