"""Assembles tool calls from the pieces in which they are streamed.

Owns which piece belongs to which call: by the provider's index, and by id and name where servers differ (one index
for all calls, no index, a new id with each piece); and whether a call is whole. A piece is never added to the
arguments of another call. Pure: must not know any wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.providers.interface import ArgumentsDelta, ToolCall
from server.unicode_safety import TextRepair, repair_text

__all__ = ["ToolCallAssembler", "index_in"]


def index_in(value: Any) -> int | None:
    """A call's index, which some servers write as text; None if the value is no index."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if type(value) is int else None


class _Call:
    """One call under assembly. `number`: its position among the answer's calls. `default`: see `add`."""

    __slots__ = ("arguments", "closed", "damaged", "default", "extra", "id", "name", "number", "repair")

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.name = ""
        self.default = ""
        self.arguments: list[str] = []
        self.repair = TextRepair()
        self.extra: dict[str, Any] = {}
        self.closed = False
        self.damaged = False

    def add_arguments(self, arguments: str) -> ArgumentsDelta:
        self.arguments.append(arguments)
        return ArgumentsDelta(self.number, repair_text(self.name), arguments)

    def is_complete(self) -> bool:
        """Whether the arguments so far are a complete JSON object."""
        text = "".join(self.arguments).strip()
        if not (text.startswith("{") and text.endswith("}")):
            return False
        try:
            return isinstance(msgspec.json.decode(text), dict)
        except (ValueError, RecursionError):
            return False


class ToolCallAssembler:
    """The tool calls of one answer, in the order in which they began, with arguments repaired for the log."""

    __slots__ = ("_by_index", "_calls", "_last")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._last: _Call | None = None

    def __len__(self) -> int:
        """How many calls began."""
        return len(self._calls)

    @property
    def repaired(self) -> int:
        """Characters of arguments replaced by U+FFFD so far."""
        return sum(call.repair.repaired for call in self._calls)

    def add(
        self, index: int | None, id: str, name: str, arguments: str, default: str = "", *, damaged: bool = False
    ) -> ArgumentsDelta:
        """Add a piece to the call at `index`, or begin a new call if there is none or if the piece belongs to
        another.

        An empty string means that the piece does not have that field. `default`: the call's arguments if it is
        closed without any piece of them. `damaged`: characters of the piece were lost.
        """
        call = self._by_id(id) if index is None else self._by_index.get(index)
        if call is None or _begins_another(call, id, name, arguments):
            call = _Call(len(self._calls))
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
        self._last = call
        call.id = call.id or id
        call.name = call.name or name
        call.default = call.default or default
        call.damaged = call.damaged or damaged
        return call.add_arguments(call.repair.feed(arguments))

    def extend(self, index: int | None, arguments: str, *, damaged: bool = False) -> ArgumentsDelta | None:
        """Add arguments to the call at `index`; None if no call began there (the block is of another kind)."""
        call = None if index is None else self._by_index.get(index)
        if call is None:
            return None
        call.damaged = call.damaged or damaged
        return call.add_arguments(call.repair.feed(arguments))

    def add_fields(self, values: Mapping[str, Any]) -> None:
        """Fields to send back with the call that had the last piece; newer values replace older ones."""
        if self._last is not None:
            self._last.extra.update(values)

    def lose_piece(self, index: int | None) -> None:
        """A piece of the call at `index` was lost; None: of any call that is not closed yet.

        What remains of the arguments could still be valid JSON, and would run as something the model did not
        write.
        """
        for call in self._calls:
            if not call.closed and (index is None or call is self._by_index.get(index)):
                call.damaged = True

    def close(self, index: int | None) -> None:
        """The provider closed the call at `index`: it is whole."""
        call = None if index is None else self._by_index.get(index)
        if call is not None:
            call.closed = True

    def close_all(self) -> None:
        """The answer ended well, in a format that does not close single calls: all are whole."""
        for call in self._calls:
            call.closed = True

    def reopen_last(self) -> None:
        """The answer was cut off: its last call may be incomplete, even if the provider closed it."""
        if self._calls:
            self._calls[-1].closed = False

    def end(self) -> list[ArgumentsDelta]:
        """No more pieces come: returns what was held back of each call's arguments (half a surrogate pair)."""
        return [call.add_arguments(call.repair.end()) for call in self._calls]

    def finished(self) -> list[tuple[ToolCall, dict[str, Any]]]:
        """All calls, each with the fields to send back; call it after `end`. Ids and names are not repaired."""
        return [(_finished(call), call.extra) for call in self._calls]

    def _by_id(self, id: str) -> _Call | None:
        """The call of a piece without an index: the call with its id, else the call of the last piece."""
        named = next((call for call in reversed(self._calls) if id and call.id == id), None)
        return named or self._last


def _finished(call: _Call) -> ToolCall:
    arguments = "".join(call.arguments)
    if not arguments and call.closed:
        arguments = repair_text(call.default)  # the arguments of a call that was cut off are unknown
    whole = call.closed and not call.damaged and not call.repair.repaired
    return ToolCall(call.id, call.name, arguments, whole=whole)


def _begins_another(call: _Call, id: str, name: str, arguments: str) -> bool:
    """Whether a piece with the call's index, or without an index, begins another call.

    1. A new id alone does not begin a call: some servers give each piece a new id.
    2. Another name does, because a call has one name.
    3. The same name again does only if the call so far is complete: some servers repeat the name with each piece.

    In doubt the piece belongs to the same call: the arguments of two calls in one are no JSON and are refused,
    while half of a call's arguments might run.
    """
    if not name or not call.name or (id and id == call.id):
        return False
    if name != call.name or call.is_complete():
        return True
    # The same name again, no arguments before and none now, but two ids: two calls without arguments.
    return bool(id and call.id) and not any(call.arguments) and not arguments
