"""The keys that sign the tokens of embedding apps: parsed, bound to one algorithm each, and fetched again.

Owns JWK sets (RFC 7517), PEM, and where they come from: a file, or a URL. While the place is away, the last good
set stays. A key verifies by the one algorithm of its type, whatever a token says: so nobody can sign by HS256 with
an RSA key's public half (RFC 8725 section 3.1). It must not know claims.

joserfc, and the cryptography below it, are imported when keys are set: most servers have none.
"""

from __future__ import annotations

import json
import os
import ssl
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import trio

from server.http_client.base_url import BaseUrl, parse_base_url
from server.http_client.connection_pool import ConnectionPool
from server.http_client.errors import HttpClientError
from server.http_client.http1_codec import encode_request
from server.http_client.proxy import choose_proxy, parse_proxy_url
from server.http_client.streaming_request import StreamingRequest, Timeouts
from server.observability import logs

if TYPE_CHECKING:
    from joserfc.jwk import Key

log = logs.get("auth")

REFRESH_SECONDS: Final = 600.0
UNKNOWN_SECONDS: Final = 30.0
"""A token with an unknown key id has the set fetched again, but not more often than this."""
FETCH_SECONDS: Final = 10.0
TIMEOUTS: Final = Timeouts(connect=FETCH_SECONDS, send=FETCH_SECONDS, first_byte=FETCH_SECONDS, idle=FETCH_SECONDS)
MAX_BYTES: Final = 1 << 20
MAX_KEYS: Final = 100
MIN_SECRET_BYTES: Final = 32
"""Of a shared secret for HS256: as many as its hash has (RFC 7518 section 3.2)."""
MIN_RSA_BITS: Final = 2048


class BadKeySet(ValueError):
    """No usable key is in it, or it cannot be read. Whoever publishes it is to blame. The message has no key."""


_OWN: Final = ("use", "key_ops", "kid")
"""Fields that are read here and not by the library, which would refuse the whole key for an unusual one."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key, its id if it has one, and the algorithm of its type: by each of its names, of which EdDSA has two.

    `thumbprint`: of the key itself (RFC 7638), the same whatever id it has.
    """

    kid: str | None
    algorithms: tuple[str, ...]
    key: Key = field(repr=False)
    thumbprint: str


def parse_key_set(data: bytes) -> Sequence[VerifyingKey]:
    """The keys in a JWK set, a single JWK, or one public key in PEM.

    Keys of unknown types, and those that are not for signatures, are left out. Raises `BadKeySet`.
    """
    if data.lstrip().startswith(b"-----BEGIN"):
        return [_pem_key(data)]
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise BadKeySet("it is neither a JSON Web Key Set nor a public key in PEM") from None
    listed = document.get("keys", [document]) if isinstance(document, dict) else document
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise BadKeySet(f"it has to be a JSON object with a list `keys`, of at most {MAX_KEYS}")
    keys, reasons = [], []
    for jwk in listed:
        try:
            keys.append(_jwk_key(jwk))
        except BadKeySet as error:
            reasons.append(str(error))
    if not keys:
        raise BadKeySet("no key in it can verify a token: " + ("; ".join(dict.fromkeys(reasons)) or "it is empty"))
    return keys


def _jwk_key(jwk: Any) -> VerifyingKey:
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    if not isinstance(jwk, dict):
        raise BadKeySet("a key is no JSON object")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ("verify",)):
        raise BadKeySet("a key is not for signatures")
    kid = jwk.get("kid")
    try:
        with _no_warnings():
            key = import_key({name: value for name, value in jwk.items() if name not in _OWN})
        return _bound(key, kid if isinstance(kid, str) else None, jwk.get("alg"))
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, BadKeySet):
            raise
        raise BadKeySet(f"a key of type {str(jwk.get('kty'))[:20]!r} cannot be read") from None


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silences the library's warnings of weak keys: `_bound` refuses them, in our own words."""
    from joserfc.errors import SecurityWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


def _pem_key(data: bytes) -> VerifyingKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    if b"PRIVATE" in data:
        raise BadKeySet("it holds a private key: this server needs the public one alone")
    if b"CERTIFICATE" in data:
        raise BadKeySet("it holds a certificate: write its public key, with openssl x509 -pubkey -noout")
    try:
        load_pem_public_key(data)
    except Exception:  # cryptography raises several kinds of its own
        raise BadKeySet("the PEM in it is no public key") from None
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            with _no_warnings():
                key: Key = kind.import_key(data)
        except Exception:  # noqa: S112, PERF203, RUF100
            continue
        return _bound(key, None, None)
    raise BadKeySet("its key is none of RSA, P-256 and Ed25519")


def _bound(key: Key, kid: str | None, named: object) -> VerifyingKey:
    """The key with the algorithm of its type. `named`: what it says of itself. Raises `BadKeySet`."""
    from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

    algorithms: tuple[str, ...]
    if isinstance(key, OctKey):
        if len(key.raw_value) < MIN_SECRET_BYTES:
            raise BadKeySet(f"a secret is shorter than {MIN_SECRET_BYTES} bytes")
        algorithms = ("HS256",)
    elif isinstance(key, RSAKey):
        if key.public_key.key_size < MIN_RSA_BITS:
            raise BadKeySet(f"an RSA key is shorter than {MIN_RSA_BITS} bits")
        algorithms = ("RS256",)
    elif isinstance(key, ECKey) and key.curve_name == "P-256":
        algorithms = ("ES256",)
    elif isinstance(key, OKPKey) and key.curve_name == "Ed25519":
        algorithms = ("EdDSA", "Ed25519")  # RFC 8037, and its newer name in RFC 9864
    else:
        raise BadKeySet(f"a key of type {key.key_type} has another curve than P-256 and Ed25519")
    if named is not None and named not in algorithms:
        raise BadKeySet(f"a key is for another algorithm than {algorithms[0]}")
    return VerifyingKey(kid, algorithms, key, key.thumbprint())


class KeySet:
    """The keys at one place: a file's name, or a URL. `version` counts up whenever they are other ones."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._data = b""
        self._fetched = float("-inf")
        self._lock = trio.Lock()
        self.keys: Sequence[VerifyingKey] = ()
        self.version = 0

    async def load(self) -> None:
        """Reads the keys. Raises `BadKeySet`; then the keys of before stay."""
        async with self._lock:
            await self._load()

    async def load_for_unknown(self, seen: int) -> None:
        """Reads them again because a token names a key that is not there; seldom, and never raises.

        `seen`: the version in which the key was looked for.
        """
        async with self._lock:
            if self.version == seen and trio.current_time() >= self._fetched + UNKNOWN_SECONDS:
                await self._try()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the keys again every `REFRESH_SECONDS`, sooner while there are none. Runs until cancelled."""
        if not self.keys:
            async with self._lock:
                await self._try()
        task_status.started()
        while True:
            await trio.sleep(REFRESH_SECONDS if self.keys else UNKNOWN_SECONDS)
            async with self._lock:
                await self._try()

    async def _try(self) -> None:
        try:
            await self._load()
        except BadKeySet as error:
            log.warning("the key set cannot be read", why=str(error), keeps=len(self.keys))

    async def _load(self) -> None:
        self._fetched = trio.current_time()
        data = await (_fetch(self._place) if "://" in self._place else _read(self._place))
        if data != self._data:
            self.keys = parse_key_set(data)
            self._data = data
            self.version += 1
            log.info("key set read", keys=len(self.keys))


async def _read(place: str) -> bytes:
    try:
        path = await trio.Path(place).expanduser()
        async with await path.open("rb") as file:
            return bytes(await file.read(MAX_BYTES))
    except OSError as error:
        raise BadKeySet(f"its file cannot be read: {error.strerror}") from None


async def _fetch(url: str) -> bytes:
    try:
        base, path = _address(url)
        proxy = choose_proxy(os.environ, url.partition("?")[0]).proxy
        pool = ConnectionPool(
            base,
            ssl.create_default_context() if base.secure else None,
            proxy=parse_proxy_url(proxy) if proxy else None,
        )
    except ValueError as error:
        raise BadKeySet(f"its URL cannot be used: {error}") from None
    request = StreamingRequest(pool, TIMEOUTS)
    try:
        with trio.fail_after(FETCH_SECONDS):
            await request.start(encode_request(base, path, {"Accept": "application/json"}, b"", method="GET"))
            if request.status != 200:
                raise BadKeySet(f"its URL answers with status {request.status}")
            data = b""
            while piece := await request.receive_some(FETCH_SECONDS):
                data += piece
                if len(data) > MAX_BYTES:
                    raise BadKeySet(f"it is longer than {MAX_BYTES} bytes")
    except trio.TooSlowError:
        raise BadKeySet(f"its URL did not answer within {FETCH_SECONDS:g} s") from None
    except HttpClientError as error:
        raise BadKeySet(f"its URL cannot be read: {error}") from None
    finally:
        await request.aclose()
    return data


def _address(url: str) -> tuple[BaseUrl, str]:
    """Where to connect to, and the path. Unlike a provider's, this URL may end in a slash and have a query."""
    place, _, query = url.partition("?")
    base = parse_base_url(place)
    if not query.isascii() or not query.isprintable() or " " in query:
        raise ValueError("its query may hold printable ASCII without spaces only")
    return replace(base, prefix="", query=query), urlsplit(place).path or "/"
