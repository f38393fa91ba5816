"""What one attempt writes, and what it hears: the log between its own events, where others decide and steer.

An append names the positions it took; what lies between them and those before was written by others, and is read
before the append returns. So a run that has written at a position knows everything in front of it. Whoever waits
reads on behind it. All that is kept is folded from the log, the run's own events too: an attempt that follows
another finds the same by reading.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import trio

from eventstore import Appended, Event, EventStore, Key, NewEvent
from server.events import Type
from server.generation import tool_call_fold
from server.generation.pen import Pen
from server.generation.state import Generation, ToolCall
from server.generation.tool_call_fold import Calls

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_HEARD = frozenset(
    {Type.STEP_FINISHED, Type.TOOL_PROPOSED, Type.TOOL_DECIDED, Type.TOOL_STARTED, Type.TOOL_FINISHED}
    | {Type.STEERING_CHANGED}
)
PAGE = 1_000


class Desk:
    """One attempt's. `calls`, `steps` (results by name) and `steering` are as of `position`."""

    def __init__(self, pen: Pen, found: Generation) -> None:
        self.generation = found.id
        self.store: EventStore = pen.store
        self.position = found.requested_position
        self.calls: Calls = ()
        self.steps: dict[str, Any] = {}
        self.steering: dict[str, Any] = dict(found.steering)
        self._pen = pen
        self._turn = trio.Lock()

    async def take_up(self, until: int) -> None:
        """Hears what happened from the request up to a position: what attempts before this one left."""
        await self._hear_up_to(until)

    async def write(self, new: Sequence[NewEvent], *, last: bool = False, keys: tuple[Key, ...] = ()) -> Appended:
        """As `Pen.write`; returns when everything up to the last of these is heard."""
        async with self._turn:
            appended = await self._pen.write(new, last=last, keys=keys)
            await self._hear_up_to(appended.first - 1)
            self._hear((appended.first + n, one.type, one.tag, one.data) for n, one in enumerate(new))
        return appended

    async def until(self, there: Callable[[], bool]) -> None:
        """Waits until what is heard makes it true. Raises `StoreUnavailable`."""
        with self.store.subscribe(self._pen.conversation, self.position) as subscription:
            while not there():
                self._listen(await subscription.next())

    def call(self, name: str) -> ToolCall:
        """One of the calls, by id."""
        return next(call for call in self.calls if call.call == name)

    async def clock(self) -> datetime:
        """The database's time."""
        return await self.store.clock()

    async def _hear_up_to(self, position: int) -> None:
        while self.position < position:
            most = min(PAGE, position - self.position)
            self._listen((await self.store.read(self._pen.conversation, self.position, most)).events)

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
        elif kind is Type.STEERING_CHANGED:
            self.steering[fields["name"]] = fields["value"]
        else:
            self.calls = tool_call_fold.after(self.calls, kind, fields, position)
