"""The digest of a call's arguments: what a decision names, so that approved A never runs as B.

SHA-256 of the canonical form of RFC 8785, which every client can compute: keys in one order, numbers written in
one way. Values that JSON numbers cannot tell apart are refused, for two calls could share one digest.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

from server.upstream import surrogates

_INEXACT = (
    "an integer beyond ±9007199254740991 (2^53−1) is no exact number in JSON (RFC 8785); write it as a string"
)


class NotCanonical(ValueError):
    """The arguments have no canonical form; whoever wrote them is to blame. The text names the argument."""


def digest(arguments: Mapping[str, Any]) -> str:
    """The SHA-256 of the arguments' form by RFC 8785, in lower-case hexadecimal.

    Raises `NotCanonical`: an integer beyond ±(2^53−1), what is no JSON, text that is no Unicode.
    """
    try:
        canonical = rfc8785.dumps(dict(arguments))
    except (ValueError, RecursionError):
        # The library does not say where it failed; so each argument is tried alone.
        found = ((name, _fault(name, value)) for name, value in arguments.items())
        name, fault = next(one for one in found if one[1])
        raise NotCanonical(f"{surrogates.clean(str(name))}: {fault}.") from None
    return hashlib.sha256(canonical).hexdigest()


def _fault(name: str, value: Any) -> str:
    try:
        rfc8785.dumps({name: value})
    except rfc8785.IntegerDomainError:
        return _INEXACT
    except rfc8785.FloatDomainError:
        return "JSON has neither infinite numbers nor NaN"
    except rfc8785.CanonicalizationError as error:
        return str(error)
    except UnicodeEncodeError:  # of a name; a text's is the one above
        return "a name holds half a character (an unpaired surrogate)"
    except RecursionError:
        return "nested too deep"
    except ValueError:  # Python writes out no integer of thousands of digits, not even into the library's message
        return _INEXACT
    return ""
