"""Values of apps made JSON: what a tool, a step or a workflow returned, in a form that the log can store.

Decides what counts as JSON here: no NaN and no infinity, integers of 64 bits, 64 levels of nesting. Text is
repaired as a provider's is (`unicode_repair`). Pure.
"""

import math
from collections.abc import Mapping
from typing import Any, overload

from pydantic_core import to_jsonable_python

from server.unicode_repair import repair_text

DEEPEST = 64
"""The most levels of lists and objects inside each other; requests have the same bound."""
_PATH_SHOWN = 5


class NotJson(ValueError):
    """A value that JSON cannot hold; the app that returned it is to blame.

    The text says where it stands, and why.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []

    def __str__(self) -> str:
        path = ".".join(self.path[:_PATH_SHOWN]) + ("…" if len(self.path) > _PATH_SHOWN else "")
        return f"{path}: {self.why}" if path else self.why


@overload
def to_jsonable(value: str) -> str: ...


@overload
def to_jsonable(value: Any) -> Any: ...


def to_jsonable(value: Any) -> Any:
    """The JSON of any value that pydantic can serialise (models, dataclasses, dates, sets …), its text repaired.

    Raises `NotJson` for a type without a JSON form, a number that JSON does not have or 64 bits cannot hold, more
    than 64 levels, and two names that become one by the repair.
    """
    return _to_json(value, 0)


def _to_json(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return repair_text(value)
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise NotJson("integers have to fit in 64 bits; write a longer one as a string.")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise NotJson(f"{value} is no JSON number.")
        return value
    if kind is list or kind is tuple:
        return [_item_to_json(item, str(n), depth) for n, item in enumerate(value)]
    if kind is dict and all(type(name) is str for name in value):
        return _object_to_json(value, depth)
    return _to_json(_serialise(value), depth)


def _item_to_json(item: Any, name: str, depth: int) -> Any:
    if depth >= DEEPEST:
        raise NotJson(f"nested deeper than {DEEPEST} levels.")
    try:
        return _to_json(item, depth + 1)
    except NotJson as error:
        error.path.insert(0, name)
        raise


def _object_to_json(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, item in value.items():
        repaired = repair_text(name)
        if repaired in made:  # one of the two values would be lost without an error
            raise NotJson(f"two names are both {repaired!a} once their text is repaired.")
        made[repaired] = _item_to_json(item, repaired, depth)
    return made


def _serialise(value: Any) -> Any:
    """The value in Python's own JSON types: pydantic returns no subclass of `str` or `dict`."""
    try:
        return to_jsonable_python(value)
    except UnicodeError:
        raise NotJson("bytes or names that are no Unicode text.") from None
    except Exception as error:  # the app's own code may have raised it: its text is for the server's log alone
        raise NotJson(f"a value of the type {type(value).__name__} cannot be written as JSON.") from error
