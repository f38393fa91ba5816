"""JSON values of apps: what a tool, a step or a workflow returned, made JSON; and the digest of a call's
arguments.

Decides what counts as JSON here: no NaN and no infinity, integers of 64 bits, 64 levels of nesting. Text is
repaired as a provider's is (`unicode_safety`).

A decision names the digest of the arguments, so that a call never runs with other ones. It is the SHA-256 of the
canonical JSON of RFC 8785, which every client can compute: keys in one order, numbers written in one way. With one
difference: RFC 8785 has no integers beyond ±(2^53−1), because a reader that parses every number as a double cannot
tell them apart. Here integers are exact, and written with all their digits. A client that cannot parse them
exactly sends back the digest that it was shown. Pure.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, overload

import msgspec
import rfc8785
from pydantic_core import to_jsonable_python

from server.unicode_safety import repair_text

MAX_DEPTH = 64
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
    if depth >= MAX_DEPTH:
        raise NotJson(f"nested deeper than {MAX_DEPTH} levels.")
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
        return to_jsonable_python(value, fallback=msgspec.to_builtins)  # which knows the parts of messages
    except UnicodeError:
        raise NotJson("bytes or names that are no Unicode text.") from None
    except Exception as error:  # the app's own code may have raised it: its text is for the server's log alone
        raise NotJson(f"a value of the type {type(value).__name__} cannot be written as JSON.") from error


class NotCanonical(ValueError):
    """The arguments have no canonical form; whoever wrote them is to blame. The text names the argument."""


def digest(arguments: Mapping[str, Any]) -> str:
    """The SHA-256 of the arguments' canonical JSON (RFC 8785), in lower-case hexadecimal.

    Raises `NotCanonical` for a value that is no JSON, and for text that is no Unicode.
    """
    try:
        canonical = _canonical(dict(arguments))
    except (ValueError, RecursionError):
        # The library does not say which argument it failed on: try each of them alone.
        found = ((name, _fault(name, value)) for name, value in arguments.items())
        name, fault = next(one for one in found if one[1])
        raise NotCanonical(f"{repair_text(str(name))}: {fault}.") from None
    return hashlib.sha256(canonical).hexdigest()


def _canonical(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        return _with_long_integers(value)


def _with_long_integers(value: Any) -> bytes:
    """The canonical JSON of a value with integers that the library refuses."""
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise rfc8785.CanonicalizationError("object keys must be strings")
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{%b}" % b",".join(b"%b:%b" % (rfc8785.dumps(name), _canonical(value[name])) for name in names)
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join(map(_canonical, value))
    return str(value).encode()


def _fault(name: str, value: Any) -> str:
    try:
        _canonical({name: value})
    except rfc8785.FloatDomainError:
        return "JSON has neither infinite numbers nor NaN"
    except rfc8785.CanonicalizationError as error:
        return str(error)
    except UnicodeEncodeError:  # a name; for a value the library raises the error above
        return "a name holds half a character (an unpaired surrogate)"
    except RecursionError:
        return "nested too deep"
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        return "an integer of too many digits; write it as a string"
    return ""
