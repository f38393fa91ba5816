"""The text of API keys, session tokens and tickets: made, recognised, hashed, and removed from other texts.

Each is `tt_`, a kind, the 26 characters of its public id and 43 random ones: `tt_key_<id>_<random>`. The prefix
lets scanners of source code and logs find a leaked one. The random part has 256 bits, so a plain SHA-256 is enough
to store: nobody can try all of them, and a slow hash would only serve attackers who want to keep the server busy.
Pure: it must not know where credentials are stored.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from server.ids import new_id

Kind = Literal["key", "ses", "tick"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_SECRET_BYTES: Final = 32
_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
_RANDOM = "[A-Za-z0-9_-]{43}"
_TOKEN = re.compile(rf"tt_(key|ses|tick)_({_ULID})_{_RANDOM}")
MAX_LENGTH: Final = len("tt_tick_") + 26 + 1 + 43
"""Characters of the longest credential of ours. A longer text is none, and is not looked at further."""

_ANY_TOKEN = re.compile(r"tt_(?:key|ses|tick)_[0-9A-Za-z_-]{1,200}")
_ANY_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Credential:
    """A text that was presented. `id`: its public id. `hash`: SHA-256 of the whole text, as it is stored."""

    kind: Kind
    id: str
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewCredential(Credential):
    """One that was just made. `text` is told to its owner once and stored nowhere."""

    text: str = field(repr=False)


def generate(kind: Kind) -> NewCredential:
    """A new credential of this kind, with a new id and 256 random bits."""
    public_id = new_id(kind)
    text = f"tt_{public_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewCredential(kind, public_id, hash_of(text), text)


def hash_of(text: str) -> bytes:
    """SHA-256 of a credential."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def parse(text: str) -> Credential | None:
    """The credential that a text is by its form, or None. Cheap: a text of any length may be given."""
    if len(text) > MAX_LENGTH:
        return None
    found = _TOKEN.fullmatch(text)
    if found is None:
        return None
    kind: Kind = found[1]  # type: ignore[assignment]  # the expression names the kinds
    return Credential(kind, f"{kind}_{found[2]}", hash_of(text))


def same(one: bytes, other: bytes) -> bool:
    """Whether two hashes are equal, in a time that does not tell where they differ."""
    return secrets.compare_digest(one, other)


def redact(text: str) -> str:
    """The text with every credential and every JWT in it replaced: `tt_key_…`, `eyJ…`."""
    text = _ANY_TOKEN.sub(lambda found: found[0][: found[0].index("_", 3) + 1] + "…", text)
    return _ANY_JWT.sub("eyJ…", text)
