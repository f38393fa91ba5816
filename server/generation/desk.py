"""What one attempt writes, and what it hears: the log between its own events, where others decide and steer.

An append names the positions it took; what lies between them and those before was written by others, and is read
before the append returns. So a run that has written at a position knows everything in front of it. Whoever waits
reads on behind it. All that is kept is folded from the log, the run's own events too: an attempt that follows
another finds the same by reading.

A log that is away fails what is written, and nothing else: reading and waiting go on when it is back.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import trio

from eventstore import Appended, Event, EventStore, Key, NewEvent, StoreUnavailable
from server.events import CARRY, Type
from server.generation import tool_call_fold
from server.generation.figures import Figures
from server.generation.pen import Pen
from server.generation.state import Generation, ToolCall
from server.generation.tool_call_fold import Calls
from server.store_retry import RETRY_SECONDS, insist

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_HEARD = frozenset(
    {Type.STEP_FINISHED, Type.TOOL_PROPOSED, Type.TOOL_DECIDED, Type.TOOL_STARTED, Type.TOOL_FINISHED}
    | {Type.STEERING_CHANGED}
)
PAGE = 1_000


class Desk:
    """One attempt's. `calls`, `steps` (results by name) and `steering` are as of `position`.

    `carried`, by step: what an upstream wants back, which no client sees.
    `figures` are told of tasks that wait here.
    """

    def __init__(self, pen: Pen, found: Generation, figures: Figures | None = None) -> None:
        self.generation = found.id
        self.store: EventStore = pen.store
        self.position = found.requested_position
        self.calls: Calls = ()
        self.steps: dict[str, Any] = {}
        self.carried: dict[str, Any] = {}
        self.steering: dict[str, Any] = dict(found.steering)
        self.figures = figures or Figures()
        self._pen = pen
        self._turn = trio.Lock()
        self._unheard: tuple[tuple[NewEvent, ...], Appended] | None = None

    async def take_up(self, until: int) -> None:
        """Hears what happened from the request up to a position: what attempts before this one left."""
        await self._hear_up_to(until)

    async def write(self, new: Sequence[NewEvent], *, last: bool = False, keys: tuple[Key, ...] = ()) -> Appended:
        """As `Pen.write`; returns when everything up to the last of these is heard.

        One that is cancelled behind its append stands in the log: the same events again are the same write.
        """
        async with self._turn:
            if self._unheard is not None and self._unheard[0] == tuple(new):
                appended = self._unheard[1]
            else:
                appended = await self._pen.write(new, last=last, keys=keys)
                self._unheard = tuple(new), appended
            await self._hear_up_to(appended.first - 1)
            self._hear((appended.first + n, one.type, one.tag, one.data) for n, one in enumerate(new))
            self._unheard = None
        return appended

    async def until(self, there: Callable[[], bool]) -> None:
        """Waits until what is heard makes it true, however long that takes: the log may be away meanwhile.

        Raises `Rewound` where the log does not hold any more what was heard.
        """
        if there():
            return
        self.figures.waiting += 1
        try:
            seen = self.position
            with self.store.subscribe(self._pen.conversation, self.position, seen=seen) as subscription:
                while not there():
                    try:
                        self._listen(await subscription.next())
                    except StoreUnavailable:
                        await trio.sleep(RETRY_SECONDS)
        finally:
            self.figures.waiting -= 1

    def call(self, name: str) -> ToolCall:
        """One of the calls, by id."""
        return next(call for call in self.calls if call.call == name)

    async def clock(self) -> datetime:
        """The database's time, once it can be asked."""
        return await insist(self.store.clock)

    async def _hear_up_to(self, position: int) -> None:
        while self.position < position:
            most = min(PAGE, position - self.position)
            read = partial(self.store.read, self._pen.conversation, self.position, most, seen=position)
            found = await insist(read)  # which says so where the log does not hold any more what was appended
            if not found.events:
                raise RuntimeError(f"{self._pen.conversation}: no event behind {self.position} of {found.head}")
            self._listen(found.events)

    def _listen(self, events: Sequence[Event]) -> None:
        self._hear((event.position, event.type, event.tag, event.data) for event in events)

    def _hear(self, told: Iterable[tuple[int, str, str | None, str]]) -> None:
        for position, kind, tag, data in told:
            if position <= self.position:
                continue  # heard by another task of this run
            self.position = position
            if tag == self.generation and kind in _HEARD:
                self._take(Type(kind), _decode(data), position)

    def _take(self, kind: Type, fields: dict[str, Any], position: int) -> None:
        if kind is Type.STEP_FINISHED:
            self.steps[fields["step"]] = fields["result"]
            if CARRY in fields:
                self.carried[fields["step"]] = fields[CARRY]
        elif kind is Type.STEERING_CHANGED:
            self.steering[fields["name"]] = fields["value"]
        else:
            self.calls = tool_call_fold.after(self.calls, kind, fields, position)
