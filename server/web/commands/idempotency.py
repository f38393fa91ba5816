"""`Idempotency-Key`: which keys are accepted, how long a key is kept, and when two bodies are the same request.

The store claims the key in the transaction of the append. This file decides under which scope, with which digest
of the body, and for how long. It holds for POST and for the `key` of a WebSocket command, and must not know HTTP.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from eventstore import Key
from server.conversations.key_scopes import CLIENT_KEY_SECONDS, client_scope
from server.problem import Problem

LEAST_ON_WEBSOCKET = 16
"""Least characters of a WebSocket command's key: two clients that number their commands would share keys."""
CALLER = "anonymous"
"""Who calls, until there are API keys."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_EXACT = 2.0**63
"""A float below this is digested as the whole number it equals; no body may hold larger whole numbers."""


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
    return Key(client_scope(CALLER, method_path), name, digest(body), CLIENT_KEY_SECONDS)


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
    """A digest that is the same for bodies of the same JSON value: names in any order, and 1 equal to 1.0 and 1e0.

    A new version of a client, or a proxy, may write the same number in another way (RFC 8259 section 6).
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
