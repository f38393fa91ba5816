"""The keys by which an append happens once: who claims which, how long it is remembered, and the client's own.

An append claims its keys in its own transaction (`eventstore.Key`). A second append with the same scope and name
is refused (`KeyReused`), or, with the same digest, answered with the positions of the first. "Permanent" keys have
no end: they outlive the stream, so a generation that was erased is told apart from one that never was.

| scope | name | claimed by the append of | remembered | decides |
|---|---|---|---|---|
| `client_scope(…)` | the client's `Idempotency-Key` | any command | 7 days | that a repeated request acts once |
| `GENERATION` | generation id | its request | permanently | where a generation is found by its id |
| `ATTEMPT` | generation id / epoch | a takeover of a lost run | permanently | which process goes on with the run |
| `DECISION` | tool call id | a person's decision, or its expiry | permanently | whose decision counts |
| `DECISION` | `approval_name` | an answer, where several people approve | permanently | whose answer comes first |
| `OUTCOME` | tool call id | a client's result, or its timeout | permanently | which result counts |
| `WEBHOOK` | generation id | the webhook's registration | 1 day | that a webhook is made once |
| `WEBHOOK_TAKEOVER` | webhook stream / epoch | a takeover of a webhook | 1 day | which process delivers on |
| `@once` (in `eventstore`) | random | an append without a lasting key | 1 hour | that a retry appends once |

Owns the names and the times, which of a client's keys are accepted, and when two bodies are the same request: the
same for POST and for the `key` of a WebSocket command. Pure: must not know how a key is stored, what a command
means, nor HTTP.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from eventstore import Key
from server.conversations.command_types import Caller
from server.problem import Problem

CLIENT_KEY_SECONDS: Final = 7 * 24 * 3600.0
"""The API promises a day; a client's queue that retries over a weekend needs more."""

GENERATION: Final = "generation"
ATTEMPT: Final = "attempt"
DECISION: Final = "decision"
OUTCOME: Final = "outcome"
WEBHOOK: Final = "webhook"
WEBHOOK_TAKEOVER: Final = "webhook takeover"
WEBHOOK_KEY_SECONDS: Final = 24 * 3600.0

MIN_COMMAND_KEY = 16
"""Least characters of a WebSocket command's key: two clients that number their commands would share keys."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_EXACT = 2.0**63
"""A float below this is digested as the whole number it equals; no body may hold larger whole numbers."""


def approval_name(call: str, position: int) -> str:
    """The name that each answer to a call claims which several people have to approve, beside its other keys.

    `position` is that of the call's last event, as the decider knew it. Of two people who answer at the same
    moment the second is refused, and decides again with the first one's approval in sight. So no approval is
    lost, and nobody's answer rests on arguments or approvals that have changed.
    """
    return f"{call}/{position}"


def client_scope(caller: str, method_path: str) -> str:
    """The scope of a client's keys: one caller's, for one method and path. Two callers may use the same key."""
    return f"{caller} {method_path}"


def idempotency_key(name: str | None, caller: Caller, method_path: str, body: Mapping[str, Any]) -> Key | None:
    """The store's key for a client's: scoped to caller, method and path, with the digest of the parsed body.

    Raises `Problem` 400 `invalid_idempotency_key`.
    """
    if name is None:
        return None
    if not _KEY.fullmatch(name):
        raise Problem(
            400, "invalid_idempotency_key", "An idempotency key has 1 to 255 printable ASCII characters."
        )
    return Key(client_scope(caller.key_scope, method_path), name, _body_digest(body), CLIENT_KEY_SECONDS)


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
    if not (isinstance(name, str) and len(name) >= MIN_COMMAND_KEY):
        raise Problem(
            422,
            "invalid_request",
            f"key: it has to be a random string of {MIN_COMMAND_KEY} characters or more.",
        )
    return name


def _body_digest(body: Mapping[str, Any]) -> bytes:
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
