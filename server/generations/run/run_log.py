"""One attempt's view of the log: a fenced writer, and what is read of the events between the attempt's own.

`FencedWriter` appends in the generation's name: in sequence, under one epoch. An app may cancel a write (a timeout
around `run.step`, say) and go on. Whether that append is in the log is unknown then, and its sequence number may
be taken. So it is sent again, unchanged, in front of the next write.

`RunLog` reads too. An append tells which positions it took; the events between those and the attempt's earlier
ones were written by others (decisions, steering, outcomes of client tools) and are read before the write returns.
So an attempt that has written at a position knows every event in front of it. All its state is folded from the
log, its own events included: a later attempt finds the same state by reading. While the log is away, writes fail;
reads and waits go on when it is back.

Must not know executors, providers or the supervisor.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import trio
from msgspec.structs import replace

from eventstore import (
    Append,
    Appended,
    Erased,
    Event,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    NewEvent,
    StoreError,
    StoreUnavailable,
    Writer,
    WrongExpectedPosition,
)
from eventstore.db_retry import retry_until_available
from server.conversations.budget import budget_after
from server.conversations.conversation_state import Generation, ToolCall
from server.conversations.tool_call_fold import ToolCalls, fold_tool_calls
from server.event_types import CARRY, TERMINAL, EventType
from server.generations.run.message_inbox import TYPES, MessageInbox
from server.generations.run.rounds import model_of_step
from server.generations.run.run_stats import RunStats

PAGE = 1_000
"""Events in one read of what others wrote."""


class FencedWriter:
    """The writer of one attempt; for one task at a time.

    `position` is that of its last event. `closed`: its terminal event is in the log. The first sequence number of
    the epoch was taken by the append that opened it: the request, or the takeover.
    """

    def __init__(self, store: EventStore, conversation: str, generation: str, epoch: int, position: int) -> None:
        self.store = store
        self.conversation = conversation
        self.generation = generation
        self.position = position
        self.closed = False
        self._epoch = epoch
        self._seq = 1
        self._unconfirmed: Append | None = None

    async def write(self, new: Sequence[NewEvent], *, last: bool = False, keys: tuple[Key, ...] = ()) -> Appended:
        """Appends events; `last` closes the writer and `keys` are claimed in the same transaction.

        Raises `StoreUnavailable`: whether the events are in the log is unknown. Any other `StoreError` says that
        nothing was appended: `Fenced`, `KeyReused`, or the database refuses these events.

        After a cancelled or unanswered write, the next call sends that append again first. Called with the same
        events, it is the same write: they are appended once.
        """
        if self._unconfirmed is not None:
            same = self._unconfirmed.events == tuple(new)
            try:
                appended = await self._send(self._unconfirmed, again=True)
            except KeyReused:
                if same:
                    raise
            else:
                if same:
                    return appended
        return await self._send(
            Append(
                self.conversation,
                tuple(new),
                writer=Writer(self.generation, self._epoch, self._seq + 1),
                closes=self.generation if last else None,
                keys=tuple(map(_with_digest, keys)),
            )
        )

    async def _send(self, append: Append, *, again: bool = False) -> Appended:
        self._unconfirmed = append
        try:
            appended = await self.store.append(append)
        except StoreError as error:
            # A refused append is not sent again: it would be refused in front of every later write, the one that
            # ends the run included. It is known to be refused where the database checked it. On any other error an
            # earlier sending of the same append may have been committed, so its sequence number must not be used
            # for other events.
            checked = isinstance(error, KeyReused | Fenced | WrongExpectedPosition | Erased)
            if checked or not (again or isinstance(error, StoreUnavailable)):
                self._unconfirmed = None
            raise
        self._unconfirmed = None
        self.closed = append.closes is not None
        self._seq += 1
        self.position = appended.last
        return appended


def _with_digest(key: Key) -> Key:
    """The key with a digest of its own, by which the store recognises the same append when it is sent again."""
    return key if key.digest is not None else replace(key, digest=secrets.token_bytes(16))


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_FOLDED = TERMINAL | {
    EventType.GENERATION_STARTED,
    EventType.STEP_FINISHED,
    EventType.TOOL_PROPOSED,
    EventType.TOOL_APPROVAL,
    EventType.TOOL_DECIDED,
    EventType.TOOL_STARTED,
    EventType.TOOL_FINISHED,
    EventType.STEERING_CHANGED,
    EventType.BUDGET_REACHED,
    EventType.BUDGET_RAISED,
}
"""The types of this generation's events that change what a `RunLog` knows."""
_STREAMED = frozenset({EventType.TOKEN, EventType.REASONING, EventType.TOOL_ARGUMENTS})
"""The types of the pieces in which an answer comes. As `frozenset[str]`: a `StrEnum` is found by its text."""


class RunLog:
    """The log as attempt `number` at a generation reads and writes it.

    `calls`, `steps` (results by name), `steering`, `budget` and `carried` are as of `position`. `carried` is what
    a provider wants back with a step's answer, by the step's name; no client sees it. `stats` counts the tasks
    that wait here.

    `used`: what the providers have counted, by model, of all rounds in the log. `streamed`: pieces that came since
    the last of these, of an answer that is not counted yet. `model`: of a run that is one model's answer, else
    None. `inbox`: the messages that people put into the answer.
    """

    def __init__(
        self,
        writer: FencedWriter,
        found: Generation,
        stats: RunStats | None = None,
        number: int = 1,
        inbox: MessageInbox | None = None,
    ) -> None:
        self.generation = found.id
        self.inbox = inbox or MessageInbox(found.id)
        self.store: EventStore = writer.store
        self.position = found.requested_position
        self.calls: ToolCalls = ()
        self.steps: dict[str, Any] = {}
        self.carried: dict[str, Any] = {}
        self.steering: dict[str, Any] = dict(found.steering)
        self.budget = found.budget
        self.used: dict[str, dict[str, int]] = {}
        self.streamed = 0
        self.stats = stats or RunStats()
        self.model = found.model
        self._writer = writer
        self._number = number
        self._write_lock = trio.Lock()
        self._unread: tuple[tuple[NewEvent, ...], Appended] | None = None
        self._fenced: Fenced | None = None

    async def catch_up(self, position: int) -> None:
        """Reads from the request up to `position`: what earlier attempts left. Waits out an outage of the log."""
        while self.position < position:
            most = min(PAGE, position - self.position)
            # `seen`: the store raises `Rewound` where the log does not hold any more what was appended.
            read = partial(self.store.read, self._writer.conversation, self.position, most, seen=position)
            found = await retry_until_available(read)
            if not found.events:
                raise RuntimeError(f"{self._writer.conversation}: no event behind {self.position} of {found.head}")
            self._apply_events(found.events)

    async def read_on(self) -> None:
        """Reads up to the log's head what others wrote, also while another task writes."""
        while True:
            found = await self.store.read(self._writer.conversation, self.position, PAGE, seen=self.position)
            self._apply_events(found.events)
            if not found.events or found.events[-1].position >= found.head:
                return

    async def write(self, new: Sequence[NewEvent], *, keys: tuple[Key, ...] = ()) -> Appended:
        """Appends as `FencedWriter.write`; returns when everything up to the last of these events is read.

        The append is in the log although the call was cancelled while it read: the same events again are the same
        write.
        """
        async with self._write_lock:
            if self._unread is not None and self._unread[0] == tuple(new):
                appended = self._unread[1]
            else:
                appended = await self._writer.write(new, keys=keys)
                self._unread = tuple(new), appended
            await self.catch_up(appended.first - 1)
            self._apply((appended.first + n, one.type, one.tag, one.data) for n, one in enumerate(new))
            self._unread = None
        return appended

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Reads on until `condition` holds, however long that takes; the log may be away meanwhile.

        Raises `Fenced` where the events say that this attempt is over: the generation has ended, or a later
        attempt has started. Without this, a process that was taken for dead would keep its run in memory until
        somebody decides. Raises `Rewound` where the log does not hold any more what was read.
        """
        if condition():
            return
        self.stats.waiting_tasks += 1
        try:
            seen = self.position
            with self.store.subscribe(self._writer.conversation, self.position, seen=seen) as subscription:
                while not condition():
                    if self._fenced is not None:
                        raise self._fenced
                    self._apply_events(await retry_until_available(subscription.next))
        finally:
            self.stats.waiting_tasks -= 1

    def call(self, call: str) -> ToolCall:
        """The tool call with this id. Raises `StopIteration` where there is none."""
        return next(one for one in self.calls if one.call == call)

    async def clock(self) -> datetime:
        """The database's time; waits out an outage of the log."""
        return await retry_until_available(self.store.clock)

    def _apply_events(self, events: Sequence[Event]) -> None:
        self._apply((event.position, event.type, event.tag, event.data) for event in events)

    def _apply(self, events: Iterable[tuple[int, str, str | None, str]]) -> None:
        for position, kind, tag, data in events:
            if position <= self.position:
                continue  # another task of this attempt has read it
            self.position = position
            if tag == self.generation:
                if kind in _FOLDED:
                    self._fold(EventType(kind), _decode(data), position)
                elif kind in _STREAMED:
                    self.streamed += 1
            if kind in TYPES:
                self.inbox.note(kind, tag, data)
        self.inbox.position = self.position

    def _fold(self, kind: EventType, fields: dict[str, Any], position: int) -> None:
        if kind is EventType.STEP_FINISHED:
            self.steps[fields["step"]] = fields["result"]
            if CARRY in fields:
                self.carried[fields["step"]] = fields[CARRY]
            self._count_round(fields["step"], fields["result"])
        elif kind in (EventType.BUDGET_REACHED, EventType.BUDGET_RAISED):
            if self.budget is not None:
                self.budget = budget_after(self.budget, kind, fields)
        elif kind is EventType.STEERING_CHANGED:
            self.steering[fields["name"]] = fields["value"]
        elif kind is EventType.GENERATION_STARTED:
            self._count_lost_round()
            if fields["attempt"] > self._number:
                self._fenced = Fenced(self._writer.conversation, self.generation, "epoch")
        elif kind in TERMINAL:
            self._fenced = Fenced(self._writer.conversation, self.generation, "closed")
        else:
            self.calls = fold_tool_calls(self.calls, kind, fields, position)

    @property
    def tokens_used(self) -> int:
        """All tokens of the run so far, also those of attempts that were lost."""
        counted = sum(
            counts.get(name, 0) for counts in self.used.values() for name in ("input_tokens", "output_tokens")
        )
        return counted + (self.streamed if self.model is not None else 0)

    def _count_round(self, step: str, result: Any) -> None:
        """Counts a step that is a round of a model's answer: by its provider's usage, else by its pieces."""
        model = model_of_step(step, self.model)
        if model is None or not isinstance(result, dict):
            return
        counts = self.used.setdefault(model, {})
        for name, count in (result.get("usage") or {"output_tokens": self.streamed}).items():
            counts[name] = counts.get(name, 0) + count
        self.streamed = 0

    def _count_lost_round(self) -> None:
        """Counts the pieces of a round that was lost with its attempt.

        They were paid for, and the round that is asked anew brings its own count, which does not have them. In a
        workflow they are not counted: they may be the app's own words, which cost nothing.
        """
        if self.model is not None and self.streamed:
            counts = self.used.setdefault(self.model, {})
            counts["output_tokens"] = counts.get("output_tokens", 0) + self.streamed
        self.streamed = 0
