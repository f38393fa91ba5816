"""`Idempotency-Key`: what a client's key is worth, how long it lives, and when two bodies are the same request.

The store claims the key in the append's own transaction; this file only says under which scope, with which digest
and for how long. Same for POST and for the `key` of a WebSocket command. It knows no HTTP.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from eventstore import Key
from server.errors import Problem

KEY_SECONDS = 7 * 24 * 3600.0
"""How long a key is kept. The API promises a day; a queue that retries over a weekend wants more."""
LEAST_ON_WEBSOCKET = 16
"""Characters of a WebSocket command's key: a client that counts its commands would meet another client's."""
CALLER = "anonymous"
"""Who calls, until there are keys."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_EXACT = 2.0**63
"""Floats below this are compared with whole numbers; above it no body holds whole numbers."""


def idempotency_key(name: str | None, method_path: str, body: Mapping[str, Any]) -> Key | None:
    """The store's key for a client's: scoped to caller, method and path, with the digest of the parsed body.

    Raises `Problem` 400 `invalid_idempotency_key`.
    """
    if name is None:
        return None
    if not _KEY.fullmatch(name):
        raise Problem(
            400, "invalid_idempotency_key", "An idempotency key has 1 to 255 printable ASCII characters."
        )
    return Key(f"{CALLER} {method_path}", name, digest(body), KEY_SECONDS)


def check_command_key(name: object, *, required: bool) -> str | None:
    """The `key` of a WebSocket command. Raises `Problem` 422 `invalid_request`, `key_required`."""
    if name is None:
        if required:
            raise Problem(
                422,
                "key_required",
                "key: a random string, so that the command acts once when it is sent again after a cut.",
            )
        return None
    if not (isinstance(name, str) and len(name) >= LEAST_ON_WEBSOCKET):
        raise Problem(
            422,
            "invalid_request",
            f"key: it has to be a random string of {LEAST_ON_WEBSOCKET} characters or more.",
        )
    return name


def digest(body: Mapping[str, Any]) -> bytes:
    """The same for two bodies of the same JSON value: whatever the order of names, and 1 being 1.0 and 1e0.

    A client that was written anew, or a proxy between, may spell a number otherwise (RFC 8259 section 6).
    """
    text = json.dumps(_by_value(body), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _by_value(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() and -_EXACT <= value < _EXACT else value
    if isinstance(value, dict):
        return {name: _by_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_by_value(inner) for inner in value]
    return value
