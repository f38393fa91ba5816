"""Verifies the tokens by which an embedding app says who its users are: signed JWTs (RFC 7519, RFC 8725).

Owns which claims count and in what form. `exp` is needed and exact; `nbf` and `iat` may be `LEEWAY_SECONDS` ahead,
for clocks differ. A token's own header chooses among the keys we have and nothing else: no `none`, no key from the
token, no URL in it is fetched. It must not know where keys come from, nor what a scope allows.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import trio

from server.auth import refusals
from server.auth.auth_store import Origin
from server.auth.key_set import KeySet, VerifyingKey
from server.auth.live_credentials import LiveCredential
from server.auth.principal import (
    ALL_SCOPES,
    MAX_SUBJECT,
    MEANINGS,
    RESERVED_SUBJECTS,
    TENANT_FORM,
    is_subject,
    is_tenant,
)
from server.problem import Problem, unavailable

MAX_TOKEN: Final = 8_192
"""Characters of a token."""
MAX_CONVERSATIONS: Final = 1_000
MAX_ID: Final = 64
LEEWAY_SECONDS: Final = 30.0
_YEAR_9999: Final = 253_402_300_799.0
JWT: Final = "jwt"
_COMPACT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
"""The compact form of a signed token, of exactly these characters: Python's decoder would skip all others."""


class JwtVerifier:
    """Verifies tokens by the keys of a `KeySet`.

    `issuer`, `audience`: what `iss` has to be and `aud` has to contain, where given. `now`: seconds since 1970.
    """

    def __init__(
        self,
        key_set: KeySet,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key_set = key_set
        self._issuer = issuer
        self._audience = audience
        self._now = now
        self._checked_version = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the keys up to date. Runs until it is cancelled."""
        await self._key_set.run(task_status=task_status)

    async def verify(self, token: str) -> LiveCredential:
        """Whoever the token names. Waits for nothing but new keys, where the token names one that is not known.

        Raises `Problem`: 401 `invalid_credential` or `expired_credential`, 503 while no keys could be read yet.
        """
        header = _header(token)
        seen = self._key_set.version
        if not self._candidates(header):
            await self._key_set.load_for_unknown(seen)
        if not self._key_set.keys:
            raise unavailable("The keys that verify tokens cannot be read at the moment.", 5.0)
        return self._verify(token, header)

    def why_no_longer(self, live: LiveCredential) -> Problem | None:
        """Why a token that was good is no longer: its key was taken away. None while it is good."""
        if live.use == self._key_set.version:
            return None
        try:
            self._verify(live.text, _header(live.text))
        except Problem as problem:
            return problem if problem.code == "expired_credential" else refusals.revoked("token's key")
        live.use = self._key_set.version
        return None

    def _verify(self, token: str, header: Mapping[str, Any]) -> LiveCredential:
        claims, signer = self._claims(token, header)
        expires = self._check_times(claims)
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise refusals.invalid("The token's `iss` is not the issuer that this server takes tokens from.")
        if self._audience is not None and self._audience not in _texts(claims.get("aud")):
            raise refusals.invalid("The token's `aud` does not name this server.")
        return LiveCredential(
            hashlib.sha256(token.encode()).digest(),
            expires - self._now(),
            datetime.fromtimestamp(min(expires, _YEAR_9999), UTC),
            replace(_whose(claims), signer=signer),
            credential=JWT,
            text=token,
            use=self._key_set.version,
        )

    def _candidates(self, header: Mapping[str, Any]) -> Sequence[VerifyingKey]:
        """The keys that a token's header can mean: of its algorithm, and of its key id if both have one."""
        kid = header.get("kid")
        return [
            key
            for key in self._key_set.keys
            if header["alg"] in key.algorithms and (kid is None or key.kid is None or key.kid == kid)
        ]

    def knows(self, signer: str) -> bool:
        """Whether a key with this thumbprint verifies tokens now. Raises `Problem` 503 while no keys were read."""
        if not self._key_set.keys:
            raise unavailable("The keys that verify tokens cannot be read at the moment.", 5.0)
        return any(key.thumbprint == signer for key in self._key_set.keys)

    def _claims(self, token: str, header: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """The claims, and the thumbprint of the key that signed them."""
        candidates = self._candidates(header)
        if not candidates:
            raise refusals.invalid("The token names a key or an algorithm that this server does not verify by.")
        for candidate in candidates:
            payload = _payload(token, candidate, header["alg"])
            if payload is not None:
                break
        else:
            raise refusals.invalid("The token's signature does not fit.")
        claims = _json_object(payload)
        if claims is None:
            raise refusals.invalid("The token's claims are no JSON object.")
        return claims, candidate.thumbprint

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """When the token expires, in seconds since 1970."""
        now = self._now()
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        if "exp" not in times:
            raise refusals.invalid("The token has no `exp`: it has to say when it expires.")
        for name, value in times.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
                raise refusals.invalid(f"The token's `{name}` is no number of seconds since 1970.")
        if times["exp"] <= now:
            raise refusals.expired("token")
        if max(times.get("nbf", 0), times.get("iat", 0)) > now + LEEWAY_SECONDS:
            raise refusals.invalid("The token is not valid yet (`nbf`, `iat`).")
        return float(times["exp"])


def _header(token: str) -> Mapping[str, Any]:
    """The token's header, with a text for `alg`. Raises `Problem` for what has not the form of a token."""
    header = None
    if len(token) <= MAX_TOKEN and _COMPACT.fullmatch(token):
        header = _json_object(_decoded(token.partition(".")[0]))
    if header is None or not isinstance(header.get("alg"), str):
        raise refusals.invalid(
            f"This is neither an API key nor a signed token (JWT) of at most {MAX_TOKEN} characters."
        )
    if "crit" in header or "b64" in header:
        raise refusals.invalid("The token needs an extension (`crit`) that this server does not have.")
    if not isinstance(header.get("kid", ""), str):
        raise refusals.invalid("The token's `kid` is no text.")
    return header


def _decoded(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (ValueError, binascii.Error):
        return b""


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _payload(token: str, candidate: VerifyingKey, algorithm: str) -> bytes | None:
    """What the token says, if its signature fits the key; else None."""
    from joserfc.errors import JoseError
    from joserfc.jws import JWSRegistry

    signed, _, signature = token.rpartition(".")
    # `algorithm` is one of the key's own. Not `JWSRegistry.get_alg`, which warns of the name EdDSA at every token.
    model = JWSRegistry.algorithms[algorithm]
    try:
        fits = model.verify(signed.encode(), _decoded(signature), candidate.key)
    except (JoseError, ValueError):
        return None
    return _decoded(signed.partition(".")[2]) if fits else None


def _whose(claims: Mapping[str, Any]) -> Origin:
    tenant, subject = claims.get("tenant"), claims.get("sub")
    if not is_tenant(tenant):
        raise refusals.invalid(f"The token's `tenant` has to be {TENANT_FORM}.")
    if not is_subject(subject):
        raise refusals.invalid(
            f"The token's `sub` has to name the user in 1 to {MAX_SUBJECT} printable characters; "
            f"{', '.join(sorted(RESERVED_SUBJECTS))} and names that begin with `key_` are taken."
        )
    named = [*_texts(claims.get("scopes"), split=True), *_texts(claims.get("scope"), split=True)]
    scopes = ALL_SCOPES.intersection(named)
    if not scopes:
        raise refusals.invalid(f"The token's `scopes` names none of {', '.join(MEANINGS)}.")
    conversations = claims.get("conversations")
    if conversations is not None:
        if not isinstance(conversations, list) or not all(map(_can_be_id, conversations)):
            raise refusals.invalid("The token's `conversations` has to be a list of ids.")
        if len(conversations) > MAX_CONVERSATIONS:
            raise refusals.invalid(f"The token's `conversations` has over {MAX_CONVERSATIONS} ids.")
        conversations = frozenset(conversations)
    return Origin(str(tenant), str(subject), scopes, conversations)


def _can_be_id(value: Any) -> bool:
    """Whether it could be an id. The database takes no text with U+0000 or half a surrogate in it."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isascii() and value.isprintable()


def _texts(value: Any, *, split: bool = False) -> Sequence[str]:
    """The texts of a claim that is a list of them or a single one; with `split`, one with spaces between."""
    if isinstance(value, str):
        return value.split() if split else [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
