"""Values of apps made plain JSON: what a tool, a step or a workflow returned, fit for the log.

Owns what counts as JSON here: no NaN, no infinity, integers of 64 bits, 64 levels; text without U+0000 and
without unpaired surrogates, repaired as an upstream's is (each becomes U+FFFD). Pure.
"""

import math
from collections.abc import Mapping
from typing import Any, overload

from pydantic_core import to_jsonable_python

from server.upstream import surrogates

DEEPEST = 64
"""Levels of lists and objects inside each other, at most; the same bound as on what clients send."""
_PATH_SHOWN = 5


class NotJson(ValueError):
    """A value that JSON cannot hold; whoever returned it is to blame. The text says where it stands, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []

    def __str__(self) -> str:
        path = ".".join(self.path[:_PATH_SHOWN]) + ("…" if len(self.path) > _PATH_SHOWN else "")
        return f"{path}: {self.why}" if path else self.why


@overload
def clean(value: str) -> str: ...


@overload
def clean(value: Any) -> Any: ...


def clean(value: Any) -> Any:
    """A text, or a JSON value, with its texts repaired, names too. Raises `NotJson`, as `to_jsonable`."""
    return _plain(value, 0)


def to_jsonable(value: Any) -> Any:
    """JSON of what pydantic can make JSON of: models, dataclasses, dates, sets …; its texts are repaired.

    Raises `NotJson`: for a type that has no JSON form, a number JSON does not have or 64 bits cannot hold, more
    than 64 levels, two names that are one after the repair.
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return surrogates.clean(value)
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise NotJson("integers have to fit in 64 bits; write a longer one as a string.")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise NotJson(f"{value} is no JSON number.")
        return value
    if kind is list or kind is tuple:
        return [_inner(item, str(n), depth) for n, item in enumerate(value)]
    if kind is dict and all(type(name) is str for name in value):
        return _object(value, depth)
    return _plain(_convert(value), depth)


def _inner(item: Any, name: str, depth: int) -> Any:
    if depth >= DEEPEST:
        raise NotJson(f"nested deeper than {DEEPEST} levels.")
    try:
        return _plain(item, depth + 1)
    except NotJson as error:
        error.path.insert(0, name)
        raise


def _object(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, item in value.items():
        repaired = surrogates.clean(name)
        if repaired in made:  # one of the two would be lost without a word
            raise NotJson(f"two names are both {repaired!a} once their text is repaired.")
        made[repaired] = _inner(item, repaired, depth)
    return made


def _convert(value: Any) -> Any:
    """The same of Python's own types alone: no class derived from `str` or `dict` comes back."""
    try:
        return to_jsonable_python(value)
    except UnicodeError:
        raise NotJson("bytes or names that are no Unicode text.") from None
    except Exception as error:  # it may call the app's own code, whose words are for the server's log alone
        raise NotJson(f"a value of the type {type(value).__name__} cannot be written as JSON.") from error
