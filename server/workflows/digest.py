"""The digest of a call's arguments: what a decision names, so that approved A never runs as B.

SHA-256 of the canonical form of RFC 8785, which every client can compute: keys in one order, numbers written in
one way. With one difference: that form knows no integers beyond ±(2^53−1), for a reader that takes every number
for a double could not tell them apart. Here they are exact everywhere, and are written with all their digits. A
client that cannot read them exactly names the digest that it was shown.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

from server.upstream import surrogates


class NotCanonical(ValueError):
    """The arguments have no canonical form; whoever wrote them is to blame. The text names the argument."""


def digest(arguments: Mapping[str, Any]) -> str:
    """The SHA-256 of the arguments' form by RFC 8785, in lower-case hexadecimal.

    Raises `NotCanonical`: what is no JSON, text that is no Unicode.
    """
    try:
        canonical = _canonical(dict(arguments))
    except (ValueError, RecursionError):
        # The library does not say where it failed; so each argument is tried alone.
        found = ((name, _fault(name, value)) for name, value in arguments.items())
        name, fault = next(one for one in found if one[1])
        raise NotCanonical(f"{surrogates.clean(str(name))}: {fault}.") from None
    return hashlib.sha256(canonical).hexdigest()


def _canonical(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        return _with_long_integers(value)


def _with_long_integers(value: Any) -> bytes:
    """The same form of a value that holds integers which the library refuses."""
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
    except UnicodeEncodeError:  # of a name; a text's is the one above
        return "a name holds half a character (an unpaired surrogate)"
    except RecursionError:
        return "nested too deep"
    except ValueError:  # Python writes out no integer of thousands of digits, not even into the library's message
        return "an integer of too many digits; write it as a string"
    return ""
