"""The digest of a tool call's arguments. A decision names it, so that a call never runs with other arguments.

SHA-256 of the canonical JSON of RFC 8785, which every client can compute: keys in one order, numbers written in
one way. With one difference: RFC 8785 has no integers beyond ±(2^53−1), because a reader that parses every number
as a double cannot tell them apart. Here integers are exact, and written with all their digits. A client that
cannot parse them exactly sends back the digest that it was shown.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

from server.unicode_repair import repair_text


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
