"""The scopes of all keys: which appends happen once only, who claims that, and for how long it is remembered.

An append claims its keys in its own transaction (`eventstore.Key`). A second append with the same scope and name
is refused (`KeyReused`), or, with the same digest, answered with the positions of the first. "Permanent" keys have
no end: they outlive the stream, so a generation that was erased is told apart from one that never was.

| scope | name | claimed by the append of | remembered | decides |
|---|---|---|---|---|
| `client_scope(…)` | the client's `Idempotency-Key` | any command | 7 days | that a repeated request acts once |
| `GENERATION` | generation id | its request | permanently | where a generation is found by its id |
| `ATTEMPT` | generation id / epoch | a takeover of a lost run | permanently | which process goes on with the run |
| `DECISION` | tool call id | a person's decision, or its expiry | permanently | whose decision counts |
| `OUTCOME` | tool call id | a client's result, or its timeout | permanently | which result counts |
| `WEBHOOK` | generation id | the webhook's registration | 1 day | that a webhook is made once |
| `WEBHOOK_TAKEOVER` | webhook stream / epoch | a takeover of a webhook | 1 day | which process delivers on |
| `@once` (in `eventstore`) | random | an append without a lasting key | 1 hour | that a retry appends once |

Owns the names and the times. Pure: must not know how a key is stored or what a command means.
"""

from typing import Final

CLIENT_KEY_SECONDS: Final = 7 * 24 * 3600.0
"""The API promises a day; a client's queue that retries over a weekend needs more."""

GENERATION: Final = "generation"
ATTEMPT: Final = "attempt"
DECISION: Final = "decision"
OUTCOME: Final = "outcome"
WEBHOOK: Final = "webhook"
WEBHOOK_TAKEOVER: Final = "webhook takeover"
WEBHOOK_KEY_SECONDS: Final = 24 * 3600.0


def client_scope(caller: str, method_path: str) -> str:
    """The scope of a client's keys: one caller's, for one method and path. Two callers may use the same key."""
    return f"{caller} {method_path}"
