"""Scopes: what a credential allows, as short words.

Owns the list of scopes and how people and tokens write them. Pure: it must not know which route needs which scope;
the route tables say that.
"""

from collections.abc import Iterable
from typing import Final

MEANINGS: Final = {
    "read": "read conversations, generations, their logs and snapshots",
    "write": "create conversations, post messages, start, steer and cancel generations, answer tool calls",
    "decide": "approve and reject tool calls that wait for a person",
    "audit": "read logs and past states, and nothing else",
    "admin": "read the server's metrics and diagnostics",
    "roles": "post messages in the roles system, assistant and tool",
}
"""Each scope, and what it allows, in the words of the command line's help. No scope includes another one."""

ALL_SCOPES: Final = frozenset(MEANINGS)


class UnknownScope(ValueError):
    """A name that is no scope; whoever wrote it is to blame. The message lists the scopes."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name[:40]!r} is not a scope; the scopes are {', '.join(MEANINGS)}")


def parse_scopes(text: str) -> frozenset[str]:
    """The scopes in a list with commas or spaces between them.

    Raises `UnknownScope`, or ValueError if the list is empty.
    """
    names = text.replace(",", " ").split()
    for name in names:
        if name not in ALL_SCOPES:
            raise UnknownScope(name)
    if not names:
        raise ValueError(f"at least one scope is needed, of {', '.join(MEANINGS)}")
    return frozenset(names)


def in_order(scopes: Iterable[str]) -> list[str]:
    """The scopes in the order of `MEANINGS`, for answers and tables."""
    held = frozenset(scopes)
    return [name for name in MEANINGS if name in held]
