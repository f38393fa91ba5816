"""Ids: a prefix that says what the id names, then a ULID: 26 characters that sort by time and cannot be guessed.

A ULID is 48 bits of milliseconds and 80 random bits in Crockford's base 32 (https://github.com/ulid/spec).
"""

import os
import re
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]
"""The two characters of each ten bits: half as many steps, for each request makes several ids."""
_ULID = "_[0-9A-HJKMNP-TV-Z]{26}"
_ID = re.compile("(conv|gen|msg|call|ref|key)" + _ULID)


def id_pattern(prefix: str) -> str:
    """A regular expression for ids with this prefix, in the syntax that JSON Schema recommends (ECMA-262)."""
    return f"^{prefix}{_ULID}$"


def new_id(prefix: str) -> str:
    """A new id with this prefix: `conv`, `gen`, `msg`, `call`, `req`, `ref` or `key`."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return f"{prefix}_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def is_valid_id(text: str, prefix: str) -> bool:
    """Whether the text has the form of an id with this prefix.

    Callers ask this before they ask the database, which raises an error for a text with U+0000 in it.
    """
    found = _ID.fullmatch(text)
    return found is not None and found[1] == prefix
