"""Ids: a prefix that says what it is, then 26 characters that sort by time and cannot be guessed (ULID's form).

https://github.com/ulid/spec: 48 bits of milliseconds, 80 random bits, Crockford's base 32.
"""

import os
import re
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]
"""The characters of ten bits at once: an id is made several times for each request."""
_REST = "_[0-9A-HJKMNP-TV-Z]{26}"
_SHAPE = re.compile("(conv|gen|msg|call|ref)" + _REST)


def shape(prefix: str) -> str:
    """What an id looks like, as a pattern that schemas of every language understand."""
    return f"^{prefix}{_REST}$"


def new(prefix: str) -> str:
    """A new id, `conv_…`, `gen_…`, `msg_…`, `call_…`, `req_…` or `ref_…`."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return f"{prefix}_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def looks_right(text: str, prefix: str) -> bool:
    """Whether this can be an id at all. What cannot never reaches the database (a NUL would be an error there)."""
    found = _SHAPE.fullmatch(text)
    return found is not None and found[1] == prefix
