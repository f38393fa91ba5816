"""The inbox of an answer: the messages that people put into it while it runs, and how it learns of them.

A message is for an answer when its `message.posted` names the generation in `into`. The answer takes it with a
`message.applied`; until then it waits here. The inbox is folded from the log, so a later attempt finds the same
one.

How an answer learns of a message, wherever it was posted, without a read of the log for its own tokens:

1. An append tells which positions it took. Where others have written between two appends of the answer, their
   events are read. So an answer whose tokens flow misses nothing.
2. A provider may be silent for a minute. Meanwhile the store calls back when another process has appended to the
   conversation (`listen_to_others`), and the command that posts a message in this process calls `wake`. Either has
   the log read once, in a task of its own. A message in it interrupts the wait for the provider.

Must not know providers, or what an answer does with a message.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from eventstore import EventStore, NewEvent, RemoteListener, StoreError
from eventstore.db_retry import retry_until_available
from server import event_types
from server.conversations.conversation_state import Message as PostedMessage
from server.event_types import EventType
from server.generations.run.rounds import CUT, is_round
from server.message_parts import Content, logged_content

MAX_CUTS: Final = 16
"""How often in a row an answer is cut short for a message before the model has said anything to its end. Messages
that come then wait for the end of the round: otherwise somebody who posts all the time would pay for many requests
and never see a whole answer."""

TYPES: Final = frozenset({EventType.MESSAGE_POSTED, EventType.MESSAGE_APPLIED, EventType.STEP_FINISHED})
"""The types of events that change an inbox. As `frozenset[str]`: a `StrEnum` is found by its text."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """A message for an answer: its id, and what it says."""

    id: str
    content: Content


class MessageInbox:
    """The messages for one attempt at `generation`. Tasks of its own run in `nursery`; without one, it learns of
    nothing by itself.

    `waiting`: those that the answer has not taken yet, the oldest first. `receiving`: the answer waits for its
    provider just now. `interrupted`: that wait was ended for a message.
    """

    __slots__ = (
        *("_again", "_applied", "_calls", "_cuts", "_listener", "_look", "_messages", "_missed", "_nursery"),
        *("_position", "_read", "_rounds", "_scope", "generation", "interrupted", "receiving", "waiting"),
    )

    def __init__(self, generation: str = "", nursery: trio.Nursery | None = None) -> None:
        self.generation = generation
        self.waiting: list[InboxMessage] = []
        self.receiving = False
        self.interrupted = False
        self._nursery = nursery
        self._messages: dict[str, InboxMessage] = {}
        self._applied: list[tuple[int, InboxMessage]] = []
        self._position = 0
        self._rounds = 0
        self._cuts = 0
        self._calls: Sequence[Any] | dict[Any, Any] = ()
        self._scope: trio.CancelScope | None = None
        self._listener: RemoteListener | None = None
        self._read: Callable[[], Awaitable[None]] | None = None
        self._look: trio.CancelScope | None = None
        self._again = False
        self._missed = False

    # -- what the log says

    def note(self, kind: str, tag: str | None, data: str) -> None:
        """Takes one event of the log into account, whoever wrote it; the same event again changes nothing."""
        if kind == EventType.MESSAGE_POSTED:
            if self.generation in data:  # nearly no message is for this answer: most are not decoded
                fields = _decode(data)
                if fields.get("into") == self.generation:
                    self.add(fields["message"], logged_content(fields["content"]))
        elif tag != self.generation:
            return
        elif kind == EventType.MESSAGE_APPLIED:
            self.apply(_decode(data)["message"])
        elif kind == EventType.STEP_FINISHED:
            fields = _decode(data)
            if is_round(fields["step"]):
                self.round_finished(fields["result"]["reason"])

    def seed(self, messages: Sequence[PostedMessage]) -> None:
        """Takes messages that wait for the answer from a state of the conversation."""
        for message in messages:
            self.add(message.id, message.content)

    def add(self, message: str, content: Content) -> None:
        """A message was posted for this answer."""
        if message not in self._messages:
            found = self._messages[message] = InboxMessage(message, content)
            self.waiting.append(found)

    def apply(self, message: str) -> None:
        """The answer has taken a message."""
        found = self._messages.get(message)
        if found is not None and found in self.waiting:
            self.waiting.remove(found)
            self._applied.append((self._rounds, found))

    def round_finished(self, reason: str) -> None:
        """A round of the answer is over, and in the log."""
        self._rounds += 1
        self._cuts = self._cuts + 1 if reason == CUT else 0

    def applied_after(self, rounds: int) -> list[InboxMessage]:
        """The messages that were taken when so many rounds were over, in their order."""
        return [message for before, message in self._applied if before == rounds]

    def applied_events(self) -> list[NewEvent]:
        """The events by which the answer takes all messages that wait."""
        return [event_types.message_applied(self.generation, message.id) for message in self.waiting]

    # -- how it learns of what others write

    @contextmanager
    def listen(self, store: EventStore, conversation: str, read: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Listens for messages while the context is open. `position` must be set.

        `read` reads the log from `position` to its head, passes the events to `note` and moves `position`.
        """
        with store.listen_to_others(conversation, self._position, self.wake) as self._listener:
            self._read = read
            if self._missed:
                self.wake()
            try:
                yield
            finally:
                self._listener = self._read = None
                if self._look is not None:
                    self._look.cancel()

    @property
    def position(self) -> int:
        """Up to where the log is known."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        if position > self._position:
            self._position = position
            if self._listener is not None:
                self._listener.position = position

    def wake(self) -> None:
        """There may be a message: has the log read. Returns at once."""
        if self._read is None or self._nursery is None:
            self._missed = True
        elif self._look is not None:
            self._again = True
        else:
            self._look = trio.CancelScope()
            self._nursery.start_soon(self._read_log, self._look)

    async def _read_log(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                self._again = True
                while self._again and self._read is not None:
                    self._again = False
                    await retry_until_available(self._read)
            except StoreError:
                pass  # the log went back, or is gone: the answer's own next append says so, and ends the attempt
        self._look = None
        self._interrupt()

    # -- how it interrupts an answer

    def may_cut(self) -> bool:
        """Whether the answer that is being written may be cut short for a message.

        Not while the model writes a tool call: the round ends first, so that each call gets its result.
        """
        return not self._calls and self._cuts < MAX_CUTS

    @contextmanager
    def interruptible(self, calls: dict[Any, Any] | Sequence[Any] = ()) -> Iterator[None]:
        """While the context is open, a message may end the wait for the provider: the block is cancelled, and
        `interrupted` set, but only while `receiving` is. `calls`: the tool calls that the model has begun to
        write.
        """
        self.interrupted, self._calls = False, calls
        with trio.CancelScope() as self._scope:
            try:
                yield
            finally:
                self._scope, self.receiving, self._calls = None, False, ()

    def _interrupt(self) -> None:
        if self.waiting and self.receiving and self._scope is not None and self.may_cut():
            self.interrupted = True
            self._scope.cancel()
