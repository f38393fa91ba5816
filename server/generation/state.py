"""What a conversation and its generations look like at a position: the values that the fold makes.

All are immutable. A conversation's states share what they have in common (`History`): the newest one writes into
it, an older one sees its own part, so a step forward costs what is new and not what is there. `size` says what
a state takes in memory; it is kept by the fold, never measured anew. Whoever changes a field changes the stored
form: then `FORM` gets the next number, and `OLDER_FORMS` the name that it had. No I/O, no clock.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from typing import Any, Final

import msgspec

from server.generation.states import ENDED, CallStatus, Status

FORM: Final = "conversation.3"
"""The name under which states are stored."""
OLDER_FORMS: Final = ("conversation.2",)
"""Names of former versions that can still be read, the newest first: what they lack has its default.

The events come first. A version that does not know a type folds over it, so a state that it stored while this
version wrote may lack what those events said; it is read only where its events are gone.
"""
QUESTION: Final = "approve "
"""How the step of a workflow's own question begins."""
MOST_ATTEMPTS: Final = 5
"""So often a run may be lost without a word, with nothing durable done in between, before it is ended: a run that
takes its process down with it is not to take down every one."""
MOST_PIECES: Final = 64
"""A text is joined at the latest when it consists of so many pieces."""


PLACE_BYTES: Final = 160
"""What a generation takes in the history and its index."""
_GENERATION_BYTES: Final = PLACE_BYTES + 280 + 80 + 4 * 48 + 4 * 32 + 80
"""With its fields of fixed size, the names among them, and its worker's."""


class Text:
    """A text that grows by pieces. They are joined when somebody asks for the whole, and once at most.

    A step forward costs the new piece, not the text, and the texts of earlier states stay as they are.
    """

    __slots__ = ("_before", "_joined", "_piece", "_pieces", "_width", "length")

    def __init__(self, text: str = "") -> None:
        self._before: Text | None = None
        self._joined: str | None = text
        self._piece = ""
        self._pieces = 1
        self._width = _width(text)
        self.length = len(text)

    def plus(self, piece: str) -> "Text":
        """The text with a piece behind it."""
        if not piece:
            return self
        if self._pieces >= MOST_PIECES:
            str(self)
        longer = Text.__new__(Text)
        longer._before = self
        longer._joined = None
        longer._piece = piece
        longer._pieces = 2 if self._joined is not None else self._pieces + 1
        longer._width = max(self._width, _width(piece))
        longer.length = self.length + len(piece)
        return longer

    @property
    def size(self) -> int:
        """Bytes in memory; an empty one is shared."""
        return 160 + self.length * self._width if self.length else 0

    def __str__(self) -> str:
        if self._joined is None:
            pieces = []
            one: Text | None = self
            while one is not None:
                if one._joined is not None:
                    pieces.append(one._joined)
                    break
                pieces.append(one._piece)
                one = one._before
            pieces.reverse()
            self._joined = "".join(pieces)
            self._before, self._piece, self._pieces = None, "", 1
        return self._joined

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Text):
            return NotImplemented
        return self is other or (self.length == other.length and str(self) == str(other))

    __hash__ = None  # type: ignore[assignment]  # by value, and of no use as a key

    def __repr__(self) -> str:
        return f"Text({str(self)!r})"


def _width(text: str) -> int:
    """Bytes that a character of it takes in memory."""
    if text.isascii():
        return 1
    largest = max(text)
    return 1 if largest < "\u0100" else 2 if largest < "\U00010000" else 4


NO_TEXT: Final = Text()


_MESSAGE_BYTES: Final = 88 + 80 + 48 + 32 + 8
"""A message, its id, time and position, and its place in a list."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody spoke."""

    id: str
    role: str
    content: str
    position: int
    at: datetime
    by: str
    author: str | None = None

    @property
    def size(self) -> int:
        """Bytes in memory; role and speaker are shared."""
        return _MESSAGE_BYTES + sys.getsizeof(self.content) + (sys.getsizeof(self.author) if self.author else 0)


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a run wants made. `arguments` are those that run: as proposed, until a decision changed them.

    `proposed_digest` is that of the proposal: what a decision has to name. `position` is that of its last event.
    """

    call: str
    name: str
    status: CallStatus
    needs_approval: bool
    client: bool
    arguments: dict[str, Any]
    arguments_digest: str
    proposed_digest: str
    position: int
    step: str
    expires_at: datetime | None = None
    decision: str | None = None
    reason: str | None = None
    by: str | None = None
    result: Any = None
    error: dict[str, Any] | None = None

    @property
    def is_question(self) -> bool:
        """Whether a workflow asks people by it (`run.approve`): nothing is run then."""
        return self.step.startswith(QUESTION)

    @property
    def waits(self) -> bool:
        """Whether nothing happens to it before somebody decides."""
        return self.needs_approval and self.status is CallStatus.PROPOSED


class Progress(msgspec.Struct, frozen=True):
    """So much is done, as it was told at `at`; `pace` is how many seconds the news before it were away."""

    done: float
    total: float
    unit: str
    stage: str | None
    at: datetime
    pace: float | None = None


class Generation(msgspec.Struct, frozen=True):
    """One run of a model or a workflow. `position` is that of its own last event.

    `said`: all tokens of the present attempt so far; `thought`: all its reasoning; `refusal`: the words with which
    the model refused to answer. `losses` counts the attempts that were lost without a word since it last did
    something durable: a step, a decision, a tool's end.
    """

    id: str
    conversation: str
    status: Status
    model: str | None
    parameters: dict[str, Any]
    requested_position: int
    position: int
    created_at: datetime
    workflow: str | None = None
    input: Any = None
    tools: tuple[str | dict[str, Any], ...] = ()
    on_crash: str = "fail"
    if_running: str = "reject"
    ephemeral: bool = False
    said: Text = msgspec.field(default=NO_TEXT, name="text")
    tokens: int = 0
    progress: Progress | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    steering: dict[str, Any] = {}
    result: Any = None
    attempt: int = 0
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    ttft_ms: int | None = None
    error: dict[str, Any] | None = None
    retryable: bool | None = None
    reason: str | None = None
    thought: Text = msgspec.field(default=NO_TEXT, name="reasoning")
    refusal: str | None = None
    losses: int = 0

    @property
    def text(self) -> str:
        """All its tokens so far, joined."""
        return str(self.said)

    @property
    def reasoning(self) -> str:
        """All its reasoning so far, joined."""
        return str(self.thought)

    @property
    def text_length(self) -> int:
        """Characters of `text`, which is not joined for it."""
        return self.said.length

    @property
    def size(self) -> int:
        """Bytes in memory, all that is in it measured: the fold keeps count instead."""
        calls = sum(map(weigh, self.tool_calls))
        given = sum(map(weigh, (self.parameters, self.input, self.tools, self.steering)))
        come = sum(map(weigh, (self.result, self.usage, self.error, self.reason, self.refusal)))
        return _GENERATION_BYTES + self.said.size + self.thought.size + calls + given + come

    @property
    def ended(self) -> bool:
        """Whether its terminal event has happened."""
        return self.status in ENDED

    def may_follow(self, attempt: int, *, lost: bool = False) -> bool:
        """Whether another attempt may follow this one; 0: none has begun, and its place in the queue is kept.

        `lost`: this one was lost without a word, which its events do not say yet. A server that stops, or whose
        database is away, says so: that counts nothing, however often it happens.
        """
        queued = attempt == 0 and self.if_running == "queue"
        return queued or (self.on_crash == "restart" and self.losses + lost < MOST_ATTEMPTS)

    def call(self, name: str) -> ToolCall | None:
        """One of its calls by id."""
        return next((found for found in self.tool_calls if found.call == name), None)


class History:
    """What the states of one conversation share: messages and generations in the order of their coming.

    It only grows. `tip` is the position of the newest state made of it; that state alone may be gone on from by
    writing here. A fold from an older state, or beside another one that is under way (`tip` is -1 then), works on
    a copy. So no state ever sees what is not its own.
    """

    __slots__ = ("ended", "index", "messages", "tip")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.index: dict[str, int] = {}
        # By order of request; None where it has not ended in any state: then the states hold it themselves.
        self.ended: list[Generation | None] = []
        self.tip = 0

    def copy(self, messages: int, generations: int) -> "History":
        """The history up to there."""
        other = History()
        other.messages = self.messages[:messages]
        other.ended = self.ended[:generations]
        other.index = {name: place for name, place in self.index.items() if place < generations}
        return other


class Conversation(msgspec.Struct, frozen=True, eq=False):
    """The fold of all events of one stream up to `position`.

    `running` are the generations that have not ended, by their place in the order of requests. `size` is what the
    state takes in memory, in bytes.
    """

    id: str
    position: int = 0
    title: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None
    message_count: int = 0
    generation_count: int = 0
    running: dict[int, Generation] = {}
    size: int = 2_000
    history: History = msgspec.field(default_factory=History)

    @classmethod
    def of(
        cls,
        id: str,
        position: int = 0,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        created_at: datetime | None = None,
        messages: Iterable[Message] = (),
        generations: Iterable[Generation] = (),
    ) -> "Conversation":
        """A state made of its parts: a stored one, say. It costs all that is in it."""
        history = History()
        history.messages += messages
        running: dict[int, Generation] = {}
        size = 2_000 + weigh(metadata) + sum(message.size for message in history.messages)
        for place, found in enumerate(generations):
            history.index[found.id] = place
            history.ended.append(found if found.ended else None)
            if not found.ended:
                running[place] = found
            size += found.size
        history.tip = position
        number = len(history.ended), len(history.messages)
        return cls(id, position, title, metadata, created_at, number[1], number[0], running, size, history)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, oldest first. A new tuple each time: `newest_messages` costs less."""
        return tuple(self.history.messages[: self.message_count])

    @property
    def generations(self) -> tuple[Generation, ...]:
        """All generations, in order of request. A new tuple each time: `newest_generations` costs less."""
        return tuple(self._generations(0, self.generation_count))

    def newest_messages(self, limit: int, before: int | None = None) -> tuple[Message, ...]:
        """The newest `limit` messages, oldest first; of those in front of position `before`, if it is given."""
        last = self.message_count
        if before is not None:
            last = bisect_left(self.history.messages, before, 0, last, key=lambda message: message.position)
        return tuple(self.history.messages[max(0, last - limit) : last])

    def newest_generations(self, limit: int, before: int | None = None) -> tuple[Generation, ...]:
        """The newest `limit` generations, in order of request; of those requested before position `before`."""
        last = self.generation_count
        if before is not None:
            last = bisect_left(range(last), before, key=lambda place: self._generation(place).requested_position)
        return tuple(self._generations(max(0, last - limit), last))

    @property
    def last_generation(self) -> Generation | None:
        """The one that was requested last."""
        return self._generation(self.generation_count - 1) if self.generation_count else None

    def generation(self, name: str) -> Generation | None:
        """One of its generations by id."""
        place = self.history.index.get(name)
        return None if place is None or place >= self.generation_count else self._generation(place)

    @property
    def open(self) -> tuple[Generation, ...]:
        """The generations that have not ended, in the order in which they were asked for."""
        return tuple(self.running.values())

    def _generation(self, place: int) -> Generation:
        found = self.running.get(place) or self.history.ended[place]
        assert found is not None  # one that runs in no state has ended
        return found

    def _generations(self, first: int, last: int) -> Iterator[Generation]:
        return map(self._generation, range(first, last))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Conversation):
            return NotImplemented
        return self is other or _parts(self) == _parts(other)


class _Stored(msgspec.Struct):
    """The stored form, `FORM`."""

    id: str
    position: int
    title: str | None
    metadata: dict[str, Any] | None
    created_at: datetime | None
    messages: tuple[Message, ...]
    generations: tuple[Generation, ...]


def _parts(state: Conversation) -> _Stored:
    return _Stored(
        state.id,
        state.position,
        state.title,
        state.metadata,
        state.created_at,
        state.messages,
        state.generations,
    )


def _text_to_json(value: Any) -> str:
    if isinstance(value, Text):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _text_from_json(kind: type, value: Any) -> Any:
    if kind is Text:
        return Text(value) if value else NO_TEXT
    raise NotImplementedError(kind.__name__)


_encode = msgspec.json.Encoder(enc_hook=_text_to_json).encode
_decode = msgspec.json.Decoder(_Stored, dec_hook=_text_from_json).decode


def to_stored(state: Conversation) -> str:
    """The state as JSON text, for a snapshot of the form `FORM`."""
    return _encode(_parts(state)).decode()


def from_stored(data: str | bytes) -> Conversation:
    """The state that was stored. Raises `msgspec.ValidationError` for anything else."""
    found = _decode(data)
    return Conversation.of(
        found.id,
        found.position,
        found.title,
        found.metadata,
        found.created_at,
        found.messages,
        found.generations,
    )


def weigh(value: Any) -> int:
    """Bytes that a value takes in memory with all that is in it: JSON values, and the structs of this file.

    Not for those that are shared: constants, and the names of fields, which the decoder makes once.
    """
    size = 0
    left = [value]
    while left:
        one = left.pop()
        if one is None or one is True or one is False or isinstance(one, Enum):
            continue
        if isinstance(one, Text):
            size += one.size
            continue
        size += sys.getsizeof(one) + 15 & ~15
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
        elif isinstance(one, msgspec.Struct):
            left += [getattr(one, name) for name in one.__struct_fields__]
    return size
