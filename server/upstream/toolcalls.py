"""Tool calls put together from their pieces.

Owns which piece belongs to which call: by the provider's index, and by id where servers differ (one index for all,
or none at all). No piece is ever added to another call's arguments. Pure: must not know wire formats.
"""

from __future__ import annotations

from .model import ToolCall

__all__ = ["ToolCalls"]


class _Call:
    __slots__ = ("arguments", "default", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.default = ""
        self.arguments: list[str] = []


class ToolCalls:
    """The calls of one answer, in the order in which they began."""

    __slots__ = ("_by_index", "_calls")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def add(self, index: int | None, id: str, name: str, arguments: str, default: str = "") -> None:
        """A piece of the call at `index`; a new call if there is none, or if the piece says that it is another.

        Empty strings mean not told. `default`: the call's arguments if no piece of them ever comes.
        """
        call = self._last() if index is None else self._by_index.get(index)
        if call is None or _differs(call, index, id, name):
            call = _Call()
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
        call.id = call.id or id
        call.name = call.name or name
        call.default = call.default or default
        call.arguments.append(arguments)

    def extend(self, index: int | None, arguments: str) -> bool:
        """More arguments for the call at `index`; False if none began there (they are somebody else's)."""
        call = None if index is None else self._by_index.get(index)
        if call is not None:
            call.arguments.append(arguments)
        return call is not None

    def finished(self) -> tuple[ToolCall, ...]:
        """All calls, whole."""
        return tuple(ToolCall(c.id, c.name, "".join(c.arguments) or c.default) for c in self._calls)

    def _last(self) -> _Call | None:
        return self._calls[-1] if self._calls else None


def _differs(call: _Call, index: int | None, id: str, name: str) -> bool:
    """Some servers give every call index 0, and some give none: then another id, or a second name, tells."""
    if id and call.id:
        return id != call.id
    return index is None and bool(name and call.name)
