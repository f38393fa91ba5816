"""What a conversation and its generations look like at one position of the log: the values that the fold makes.

All are immutable. The states of one conversation share what they have in common (`History`): a step forward costs
what is new, not what is there. `size` is what a state takes in memory; the fold adds to it event by event, because
to measure a whole state costs as much as to make it. Changed fields change the stored form: see `stored_state`.
No I/O, no clock.
"""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from sys import intern
from typing import Any, Final, Literal

import msgspec

from server.conversations.budget import Budget
from server.conversations.state_machine import ENDED, CallStatus, Status
from server.event_types import ANONYMOUS, DEFAULT_TENANT
from server.message_parts import Content

APPROVAL_STEP_PREFIX: Final = "approve "
"""How the name of a step begins by which a workflow itself asks people (`run.approve`)."""
MAX_ATTEMPTS: Final = 5
"""How many attempts of a run may be lost without a word, with nothing durable done in between, before it is ended.

A run may crash the process that it runs in. Without this bound it would crash one process after the other."""
MAX_PIECES: Final = 64
"""A `GrowingText` of so many pieces is joined."""

INDEX_ENTRY_BYTES: Final = 160
"""Memory of a generation's entries in the history and its index."""
_CONVERSATION_BYTES: Final = 2_000
_GENERATION_BYTES: Final = INDEX_ENTRY_BYTES + 280 + 80 + 4 * 48 + 4 * 32 + 80
"""Memory of a generation with its fields of fixed size, the names among them, and its worker's name."""
_MESSAGE_BYTES: Final = 88 + 80 + 48 + 32 + 8
"""Memory of a message, its id, time and position, and its place in a list."""


class GrowingText:
    """A text that grows piece by piece. The pieces are joined when somebody asks for the whole, at most once.

    So a new piece costs its own length and not that of the whole text, and the texts of earlier states stay as
    they are. `length`: in characters.
    """

    __slots__ = ("_before", "_joined", "_piece", "_pieces", "_width", "length")

    def __init__(self, text: str = "") -> None:
        self._before: GrowingText | None = None
        self._joined: str | None = text
        self._piece = ""
        self._pieces = 1
        self._width = _width(text)
        self.length = len(text)

    def plus(self, piece: str) -> "GrowingText":
        """A new text: this one, and then the piece."""
        if not piece:
            return self
        if self._pieces >= MAX_PIECES:
            str(self)
        longer = GrowingText.__new__(GrowingText)
        longer._before = self
        longer._joined = None
        longer._piece = piece
        longer._pieces = 2 if self._joined is not None else self._pieces + 1
        longer._width = max(self._width, _width(piece))
        longer.length = self.length + len(piece)
        return longer

    @property
    def size(self) -> int:
        """Bytes in memory. All empty texts are one object."""
        return 160 + self.length * self._width if self.length else 0

    def __str__(self) -> str:
        if self._joined is None:
            pieces = []
            one: GrowingText | None = self
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
        if not isinstance(other, GrowingText):
            return NotImplemented
        return self is other or (self.length == other.length and str(self) == str(other))

    __hash__ = None  # type: ignore[assignment]  # equal by value, and nobody needs it as a key

    def __repr__(self) -> str:
        return f"GrowingText({str(self)!r})"


def _width(text: str) -> int:
    """Bytes that each character of the text takes in memory (PEP 393)."""
    if text.isascii():
        return 1
    largest = max(text)
    return 1 if largest < "\u0100" else 2 if largest < "\U00010000" else 4


NO_TEXT: Final = GrowingText()


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message that somebody posted.

    `content`: a text, or parts, as it was posted. `by` is who posted it, as the server knows it; `author` is a
    name to show. `deliver`: `now` where it was to be put into a running answer; `into` is then the generation that
    was to take it, None where none could. What became of it is `Conversation.delivery_of`.
    """

    id: str
    role: str
    content: Content
    position: int
    at: datetime
    by: str
    author: str | None = None
    deliver: str | None = None
    into: str | None = None

    @property
    def size(self) -> int:
        """Bytes in memory. Messages share the strings of `role`, `by` and `into`."""
        content = sys.getsizeof(self.content) if isinstance(self.content, str) else size_in_memory(self.content)
        return _MESSAGE_BYTES + content + (sys.getsizeof(self.author) if self.author else 0)


class AppliedMessage(msgspec.Struct, frozen=True):
    """A message that an answer has taken into account. `message` is its id, `position` that of `message.applied`.

    `text_length`: characters of the answer's text that were written before it.
    """

    message: str
    position: int
    text_length: int


class Delivery(msgspec.Struct, frozen=True):
    """What became of a message that was to be put into a running answer.

    `queued`: the answer has not taken it yet. `applied`: it has, from `applied_position` on. `returned`: it ended
    first, or there was none; the message is one like any other, which the next answer sees.
    """

    status: Literal["queued", "applied", "returned"]
    applied_position: int | None = None


_RETURNED: Final = Delivery("returned")
_QUEUED: Final = Delivery("queued")


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call that a run has proposed. `call` is its id, `name` the tool's.

    `arguments` are those that run: as proposed, or as a decision modified them. `proposed_digest` is the digest of
    the arguments that people are asked about, which a decision has to name. `position` is that of the call's last
    event. `client`: a client runs the tool, not the server.

    `approvers`: how many people have to approve it; `approvals`: who has, so far; `another_person`: whoever
    requested the generation may not. Where several people have to approve and one of them modifies the arguments,
    the others are asked about the new ones: `modified_from` is the digest of those that the run proposed.
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
    approvers: int = 1
    another_person: bool = False
    approvals: tuple[str, ...] = ()
    modified_from: str | None = None

    @property
    def is_question(self) -> bool:
        """Whether a workflow asks people by this call (`run.approve`); then no tool is run."""
        return self.step.startswith(APPROVAL_STEP_PREFIX)

    @property
    def waits(self) -> bool:
        """Whether the call cannot go on before a person decides."""
        return self.needs_approval and self.status is CallStatus.PROPOSED


class Progress(msgspec.Struct, frozen=True):
    """How much of the work is done, as reported at `at`. `pace`: seconds since the report before, or the start."""

    done: float
    total: float
    unit: str
    stage: str | None
    at: datetime
    pace: float | None = None


class Generation(msgspec.Struct, frozen=True):
    """One run of a model or a workflow. `position` is that of its own last event. `by`: who requested it.

    `growing_text`: all tokens of the present attempt so far; `growing_reasoning`: all its reasoning; `refusal`:
    the words with which the model refused to answer. `losses` counts the attempts that were lost without a word
    since the run last did something durable: a step, a decision, the end of a tool. `applied`: the messages that
    were put into the answer while it ran, in their order.
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
    growing_text: GrowingText = msgspec.field(default=NO_TEXT, name="text")
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
    growing_reasoning: GrowingText = msgspec.field(default=NO_TEXT, name="reasoning")
    refusal: str | None = None
    losses: int = 0
    by: str = ANONYMOUS
    budget: Budget | None = None
    applied: tuple[AppliedMessage, ...] = ()

    @property
    def waits_for_budget(self) -> bool:
        """Whether the run has reached a bound of its budget, and waits until somebody raises it."""
        return self.budget is not None and self.budget.reached is not None

    @property
    def waiting_for(self) -> Literal["approval", "budget"] | None:
        """What the run waits for; None where its status is not `waiting`."""
        if self.status is not Status.WAITING:
            return None
        return "budget" if self.waits_for_budget else "approval"

    @property
    def text(self) -> str:
        """All tokens of the present attempt so far, joined."""
        return str(self.growing_text)

    @property
    def reasoning(self) -> str:
        """All reasoning of the present attempt so far, joined."""
        return str(self.growing_reasoning)

    @property
    def text_length(self) -> int:
        """Characters of `text`. Unlike `len(text)` this does not join its pieces."""
        return self.growing_text.length

    @property
    def size(self) -> int:
        """Bytes in memory, measured field by field. The fold does this once, and then counts along."""
        listed = sum(size_in_memory(one) + 8 for one in (*self.tool_calls, *self.applied))
        request = sum(map(size_in_memory, (self.parameters, self.input, self.tools, self.steering, self.budget)))
        outcome = sum(map(size_in_memory, (self.result, self.usage, self.error, self.reason, self.refusal)))
        texts = self.growing_text.size + self.growing_reasoning.size
        return _GENERATION_BYTES + texts + listed + request + outcome

    @property
    def ended(self) -> bool:
        """Whether its terminal event has happened."""
        return self.status in ENDED

    def may_follow(self, attempt: int, *, lost: bool = False) -> bool:
        """Whether another attempt may follow attempt number `attempt`.

        0: no attempt has begun yet; then a queued generation keeps its place in the queue. `lost`: the attempt was
        lost without a word, and the log does not say so yet. A server that stops, or that loses its database, says
        so in the log; such an interruption does not count, however often it happens.
        """
        queued = attempt == 0 and self.if_running == "queue"
        return queued or (self.on_crash == "restart" and self.losses + lost < MAX_ATTEMPTS)

    def call(self, name: str) -> ToolCall | None:
        """The tool call with this id, or None."""
        return next((found for found in self.tool_calls if found.call == name), None)


class History:
    """What the states of one conversation share: its messages and generations, in the order of their positions.

    It only grows. `tip` is the position of the newest state that uses it, or -1 while a fold is writing. Only a
    fold that starts at the state at `tip` may append here. A fold from an older state, or during another fold,
    works on a copy. So no state ever sees messages or generations that came after it.
    """

    __slots__ = ("ended", "index", "messages", "tip")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.index: dict[str, int] = {}
        # By order of request. None: it has ended in no state yet, and each state holds its own version of it.
        self.ended: list[Generation | None] = []
        self.tip = 0

    def copy(self, messages: int, generations: int) -> "History":
        """A history of its own with so many messages and generations of this one."""
        other = History()
        other.messages = self.messages[:messages]
        other.ended = self.ended[:generations]
        other.index = {name: place for name, place in self.index.items() if place < generations}
        return other


class Conversation(msgspec.Struct, frozen=True, eq=False):
    """The fold of all events of one conversation up to `position`. `tenant` owns it.

    `running` holds the generations that have not ended, by their place in the order of requests. `size`: bytes
    that the state takes in memory.
    """

    id: str
    position: int = 0
    title: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None
    tenant: str = DEFAULT_TENANT
    message_count: int = 0
    generation_count: int = 0
    running: dict[int, Generation] = {}
    size: int = _CONVERSATION_BYTES
    history: History = msgspec.field(default_factory=History)

    @classmethod
    def from_parts(
        cls,
        id: str,
        position: int = 0,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        created_at: datetime | None = None,
        messages: Iterable[Message] = (),
        generations: Iterable[Generation] = (),
        tenant: str = DEFAULT_TENANT,
    ) -> "Conversation":
        """A state made of its parts, such as a stored one. Costs as much as everything in it."""
        history = History()
        history.messages += messages
        running: dict[int, Generation] = {}
        size = _CONVERSATION_BYTES + size_in_memory(metadata) + sum(message.size for message in history.messages)
        for place, found in enumerate(generations):
            history.index[found.id] = place
            history.ended.append(found if found.ended else None)
            if not found.ended:
                running[place] = found
            size += found.size
        history.tip = position
        counts = len(history.messages), len(history.ended)
        return cls(id, position, title, metadata, created_at, intern(tenant), *counts, running, size, history)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, oldest first, in a new tuple. `newest_messages` costs less."""
        return tuple(self.history.messages[: self.message_count])

    @property
    def generations(self) -> tuple[Generation, ...]:
        """All generations, in order of request, in a new tuple. `newest_generations` costs less."""
        return tuple(self._generations(0, self.generation_count))

    def newest_messages(self, limit: int, before: int | None = None) -> tuple[Message, ...]:
        """The newest `limit` messages, oldest first. `before`: only messages at positions below it."""
        last = self.message_count
        if before is not None:
            last = bisect_left(self.history.messages, before, 0, last, key=lambda message: message.position)
        return tuple(self.history.messages[max(0, last - limit) : last])

    def messages_since(self, position: int) -> tuple[Message, ...]:
        """The messages behind a position, oldest first."""
        messages, last = self.history.messages, self.message_count
        first = bisect_right(messages, position, 0, last, key=lambda message: message.position)
        return tuple(messages[first:last])

    def newest_generations(self, limit: int, before: int | None = None) -> tuple[Generation, ...]:
        """The newest `limit` generations, in order of request.

        `before`: only those requested below this position.
        """
        last = self.generation_count
        if before is not None:
            last = bisect_left(range(last), before, key=lambda place: self._generation(place).requested_position)
        return tuple(self._generations(max(0, last - limit), last))

    @property
    def last_generation(self) -> Generation | None:
        """The generation that was requested last."""
        return self._generation(self.generation_count - 1) if self.generation_count else None

    def generation(self, name: str) -> Generation | None:
        """The generation with this id, or None."""
        place = self.history.index.get(name)
        return None if place is None or place >= self.generation_count else self._generation(place)

    @property
    def open(self) -> tuple[Generation, ...]:
        """The generations that have not ended, in order of request."""
        return tuple(self.running.values())

    def delivery_of(self, message: Message) -> Delivery | None:
        """What became of the message; None where it was not to be put into a running answer.

        Derived, and not stored with the message: the end of a generation decides on all messages that it has not
        taken, whoever writes that end.
        """
        if message.deliver is None:
            return None
        found = self.generation(message.into) if message.into is not None else None
        if found is None:
            return _RETURNED
        for applied in found.applied:
            if applied.message == message.id:
                return Delivery("applied", applied.position)
        return _RETURNED if found.ended else _QUEUED

    def _generation(self, place: int) -> Generation:
        found = self.running.get(place) or self.history.ended[place]
        assert found is not None  # a generation that is not running has ended
        return found

    def _generations(self, first: int, last: int) -> Iterator[Generation]:
        return map(self._generation, range(first, last))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Conversation):
            return NotImplemented
        if self is other:
            return True
        mine, others = (
            (one.id, one.position, one.title, one.metadata, one.created_at, one.tenant) for one in (self, other)
        )
        return mine == others and self.messages == other.messages and self.generations == other.generations


def size_in_memory(value: Any) -> int:
    """Bytes that a value takes in memory with everything in it. For JSON values and the structs of this file.

    Shared objects count nothing: constants, and the names of fields, which the JSON decoder makes once.
    """
    size = 0
    left = [value]
    while left:
        one = left.pop()
        if one is None or one is True or one is False or isinstance(one, Enum):
            continue
        if isinstance(one, GrowingText):
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
