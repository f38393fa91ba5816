"""Tool calls put together from their pieces.

Owns which piece belongs to which call: by the provider's index, and by id and name where servers differ (one index
for all, none at all, another id with each piece); and whether a call is whole. No piece is ever added to another
call's arguments. Pure: must not know wire formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .model import ArgumentsDelta, ToolCall
from .surrogates import Repair, clean

__all__ = ["ToolCalls", "index_in"]


def index_in(value: Any) -> int | None:
    """A call's index as servers write it, some as text; None for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if type(value) is int else None


class _Call:
    __slots__ = ("arguments", "closed", "damaged", "default", "extra", "id", "name", "number", "repair")

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.name = ""
        self.default = ""
        self.arguments: list[str] = []
        self.repair = Repair()
        self.extra: dict[str, Any] = {}
        self.closed = False
        self.damaged = False

    def piece(self, arguments: str) -> ArgumentsDelta:
        self.arguments.append(arguments)
        return ArgumentsDelta(self.number, clean(self.name), arguments)

    def is_complete(self) -> bool:
        """Its arguments are a whole JSON object already."""
        text = "".join(self.arguments).strip()
        if not (text.startswith("{") and text.endswith("}")):
            return False
        try:
            return isinstance(msgspec.json.decode(text), dict)
        except (ValueError, RecursionError):
            return False


class ToolCalls:
    """The calls of one answer, in the order in which they began; their arguments fit for the log."""

    __slots__ = ("_by_index", "_calls", "_last")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._last: _Call | None = None

    def __len__(self) -> int:
        """How many began."""
        return len(self._calls)

    @property
    def repaired(self) -> int:
        """Characters of arguments replaced by U+FFFD so far."""
        return sum(call.repair.repaired for call in self._calls)

    def add(
        self, index: int | None, id: str, name: str, arguments: str, default: str = "", *, damaged: bool = False
    ) -> ArgumentsDelta:
        """A piece of the call at `index`; a new call if there is none, or if the piece says that it is another.

        Empty strings mean not told. `default`: the call's arguments if it is closed without any piece of them.
        `damaged`: the piece is not what the model wrote.
        """
        call = self._by_id(id) if index is None else self._by_index.get(index)
        if call is None or _is_another(call, id, name, arguments):
            call = _Call(len(self._calls))
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
        self._last = call
        call.id = call.id or id
        call.name = call.name or name
        call.default = call.default or default
        call.damaged = call.damaged or damaged
        return call.piece(call.repair.feed(arguments))

    def extend(self, index: int | None, arguments: str, *, damaged: bool = False) -> ArgumentsDelta | None:
        """More arguments for the call at `index`; None if none began there (they are somebody else's)."""
        call = None if index is None else self._by_index.get(index)
        if call is None:
            return None
        call.damaged = call.damaged or damaged
        return call.piece(call.repair.feed(arguments))

    def extra(self, values: Mapping[str, Any]) -> None:
        """What the provider wants back with the call that had the last piece; the newest stands."""
        if self._last is not None:
            self._last.extra.update(values)

    def lose(self, index: int | None) -> None:
        """A piece of the call at `index` was lost; None: of any call that is not whole yet.

        Without it the rest could still be JSON, and run with arguments that the model did not write.
        """
        for call in self._calls:
            if not call.closed and (index is None or call is self._by_index.get(index)):
                call.damaged = True

    def close(self, index: int | None) -> None:
        """The provider says that the call at `index` is whole."""
        call = None if index is None else self._by_index.get(index)
        if call is not None:
            call.closed = True

    def close_all(self) -> None:
        """The provider says that the answer ended well, and closes no call by itself."""
        for call in self._calls:
            call.closed = True

    def open_last(self) -> None:
        """The answer was cut: its last call may be, too, even if the provider closed it."""
        if self._calls:
            self._calls[-1].closed = False

    def end(self) -> list[ArgumentsDelta]:
        """No more pieces come: what was held back of the calls' arguments, a piece each."""
        return [call.piece(call.repair.end()) for call in self._calls]

    def finished(self) -> list[tuple[ToolCall, dict[str, Any]]]:
        """All calls, each with what the provider wants back; after `end`. Ids and names are as they came."""
        return [(_finished(call), call.extra) for call in self._calls]

    def _by_id(self, id: str) -> _Call | None:
        """The call of a piece that tells no index: the one of its id, else that of the last piece."""
        named = next((call for call in reversed(self._calls) if id and call.id == id), None)
        return named or self._last


def _finished(call: _Call) -> ToolCall:
    arguments = "".join(call.arguments)
    if not arguments and call.closed:
        arguments = clean(call.default)  # of a call that was cut nobody knows them
    whole = call.closed and not call.damaged and not call.repair.repaired
    return ToolCall(call.id, call.name, arguments, whole=whole)


def _is_another(call: _Call, id: str, name: str, arguments: str) -> bool:
    """Whether a piece with the call's index, or with none, begins another call.

    An id alone does not tell: some servers give each piece a new one. A name does, for a call has one; but some
    repeat it, so of the same name twice only what was complete is over. In doubt it is the same call: arguments of
    two calls in one are no JSON, and are refused, where half of a call's arguments could run.
    """
    if not name or not call.name or (id and id == call.id):
        return False
    if name != call.name or call.is_complete():
        return True
    # The same name again. Nothing was written yet, and nothing is now: two calls without any, with an id each.
    return bool(id and call.id) and not any(call.arguments) and not arguments
