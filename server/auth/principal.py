"""The principal: who makes a request, for which tenant, and what they may do: their scopes.

Owns the value that the rest of the server is given, the list of scopes and how people and tokens write them, and
the forms of tenants and subjects. Pure: it must not know how somebody was recognised, nor which route needs which
scope (`web/edge/route_scopes` says that).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
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


DEFAULT_TENANT: Final = "default"
MAX_SUBJECT: Final = 200
"""Characters."""
TENANT_FORM: Final = "1 to 63 characters of a-z, 0-9, '_' and '-', the first one a letter or a digit"
RESERVED_SUBJECTS: Final = frozenset({"anonymous", "tokentape", "operator"})
"""Callers without a credential, the server's own decisions, and operators on the server's machine."""
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def is_tenant(name: object) -> bool:
    """Whether `name` has the form of a tenant (`TENANT_FORM`). A tenant contains no slash."""
    return isinstance(name, str) and _TENANT.fullmatch(name) is not None


def is_subject(name: object) -> bool:
    """Whether `name` can stand in an event as the user who did something: printable, and not too long.

    The names of the server itself, of callers without a credential and of API keys are no user's: an app that lets
    its users choose their names would let one of them act as somebody else in the record.
    """
    if not (
        isinstance(name, str) and 0 < len(name) <= MAX_SUBJECT and name.isprintable() and name == name.strip()
    ):
        return False
    return name not in RESERVED_SUBJECTS and not name.startswith("key_")


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever makes a request.

    `subject`: the name of the user or the id of the key; it stands in events as `by`. `credential`: the public id
    of what they signed in with (`key_…`, `ses_…`, `tick_…`), `jwt` or `none`. `conversations`: the only ones that
    they may touch; None for all of the tenant. `stream`: the one conversation or generation that a ticket is for.
    `limits`: those of its key, as they were written. `live`: what the authenticator knows of the credential;
    nobody else looks into it.
    """

    tenant: str
    subject: str
    scopes: frozenset[str]
    credential: str
    conversations: frozenset[str] | None = None
    stream: str | None = None
    limits: str = ""
    live: object = field(default=None, compare=False, repr=False)

    def may(self, scope: str) -> bool:
        """Whether the credential has this scope. No scope includes another one."""
        return scope in self.scopes

    @property
    def caller(self) -> str:
        """Whose idempotency keys these are: `tenant/subject`, or `anonymous` where nobody has to sign in.

        A tenant contains no slash, so two different pairs never give the same text.
        """
        return ANONYMOUS_SUBJECT if self.credential == NO_CREDENTIAL else f"{self.tenant}/{self.subject}"


ANONYMOUS_SUBJECT: Final = "anonymous"
NO_CREDENTIAL: Final = "none"
ANONYMOUS: Final = Principal(DEFAULT_TENANT, ANONYMOUS_SUBJECT, ALL_SCOPES, NO_CREDENTIAL)
"""Everybody, on a server for which no key was ever made."""
