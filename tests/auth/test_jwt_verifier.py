"""Tokens of embedding apps: what is taken and what is refused, in one table; keys that change; any garbage."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from trio.testing import MockClock

from server.auth.authenticator import Authenticator, Presented, Reader
from server.auth.jwt_verifier import LEEWAY_SECONDS, MAX_TOKEN, JwtVerifier
from server.auth.key_set import BadKeySet, KeySet, VerifyingKey, parse_key_set
from server.auth.live_credentials import LiveCredential
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.principal import ALL_SCOPES
from server.problem import Problem
from tests.auth.test_authenticator import Stream

SIGNERS: dict[str, Key] = {
    "HS256": OctKey.generate_key(256),
    "RS256": RSAKey.generate_key(2048),
    "ES256": ECKey.generate_key("P-256"),
    "EdDSA": OKPKey.generate_key("Ed25519"),
}
OTHERS: dict[str, Key] = {
    "HS256": OctKey.generate_key(256),
    "RS256": RSAKey.generate_key(2048),
    "ES256": ECKey.generate_key("P-256"),
    "EdDSA": OKPKey.generate_key("Ed25519"),
}
PEM = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
NOW = 1_900_000_000.0


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def published(signers: Mapping[str, Key], **more: Any) -> bytes:
    """The key set of an app, with the algorithms' names as key ids."""
    keys = [{**key.as_dict(private=key.key_type == "oct"), "kid": name, **more} for name, key in signers.items()]
    return json.dumps({"keys": keys}).encode()


def signed(header: Mapping[str, Any], claims: object, key: Key, algorithm: str | None = None) -> str:
    """A token, however senseless. `algorithm`: by which it is signed, whatever the header says."""
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    model = JWSRegistry.algorithms[algorithm or header["alg"]]
    return f"{text}.{b64(model.sign(text.encode(), key))}"


def claims(**more: Any) -> dict[str, Any]:
    """Good ones, with changes; None leaves one out."""
    good = {"tenant": "acme", "sub": "ada", "scopes": ["read"], "exp": NOW + 300, **more}
    return {name: value for name, value in good.items() if value is not None}


def token(algorithm: str = "ES256", **more: Any) -> str:
    return signed({"alg": algorithm, "kid": algorithm}, claims(**more), SIGNERS[algorithm])


def verifier(*, data: bytes | None = None, **options: Any) -> JwtVerifier:
    key_set = KeySet("/nowhere")
    key_set.keys, key_set.version = parse_key_set(data or published(SIGNERS)), 1
    return JwtVerifier(key_set, now=lambda: NOW, **options)


async def code_of(text: str, **options: Any) -> str:
    """`good`, or the code of the refusal."""
    found = await _outcome(verifier(**options), text)
    if isinstance(found, LiveCredential):
        return "good"
    assert found.status == 401
    assert not text or text not in found.detail
    return found.code


async def _outcome(by: JwtVerifier, text: str) -> LiveCredential | Problem:
    try:
        return await by.verify(text)
    except Problem as problem:
        return problem


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_each_algorithm(algorithm: str) -> None:
    live = await verifier().verify(token(algorithm, conversations=["conv_1"], scopes=["read", "write", "fly"]))
    principal = live.principal
    assert (principal.tenant, principal.subject, principal.credential) == ("acme", "ada", "jwt")
    assert principal.scopes == frozenset({"read", "write"})
    assert principal.conversations == frozenset({"conv_1"})
    assert live.expires - trio.current_time() == pytest.approx(300, abs=1)


def _any(*values: Any) -> tuple[Any, ...]:
    return values


INVALID, EXPIRED, GOOD = "invalid_credential", "expired_credential", "good"
HUGE = 10**400
CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({}, GOOD),
    ({"exp": None}, INVALID),
    ({"exp": NOW}, EXPIRED),
    ({"exp": NOW - 1}, EXPIRED),
    ({"exp": 0}, EXPIRED),
    ({"exp": -1}, EXPIRED),
    ({"exp": NOW + 0.5}, GOOD),
    ({"exp": NOW + 86_400 * 365 * 100}, GOOD),
    ({"exp": 1e15}, GOOD),
    *(({"exp": value}, INVALID) for value in _any("1900000300", True, [], {}, 1e300, HUGE)),
    ({"nbf": NOW + LEEWAY_SECONDS}, GOOD),
    ({"nbf": NOW + LEEWAY_SECONDS + 1}, INVALID),
    ({"iat": NOW + LEEWAY_SECONDS}, GOOD),
    ({"iat": NOW + LEEWAY_SECONDS + 1}, INVALID),
    ({"nbf": "soon"}, INVALID),
    *(({"tenant": value}, INVALID) for value in _any(None, "", "A", "a/b", 7, ["acme"], "a" * 64)),
    *(({"sub": value}, INVALID) for value in _any(None, "", " ", "a\nb", 7, {}, "a" * 201, "\x00")),
    ({"scopes": "read write"}, GOOD),
    ({"scopes": None, "scope": "openid read"}, GOOD),
    ({"scopes": None, "scope": ["read"]}, GOOD),
    *(
        ({"scopes": value}, INVALID)
        for value in _any(None, [], "", ["fly"], ["READ"], 7, {"read": True}, [["read"]])
    ),
    ({"conversations": []}, GOOD),
    *(
        ({"conversations": value}, INVALID)
        for value in _any("conv_1", [7], {}, ["conv_1"] * 1001, ["\x00"], ["\ud800"], [""], ["x" * 65])
    ),
    ({"anything": {"else": [1]}}, GOOD),
]


@pytest.mark.parametrize(("changed", "code"), CLAIMS)
async def test_claims(changed: dict[str, Any], code: str) -> None:
    assert await code_of(token(**changed)) == code


@pytest.mark.parametrize(
    ("options", "changed", "code"),
    [
        ({"issuer": "https://app"}, {"iss": "https://app"}, GOOD),
        *(({"issuer": "https://app"}, {"iss": iss}, INVALID) for iss in (None, "https://ap", ["https://app"], 7)),
        ({"audience": "tape"}, {"aud": "tape"}, GOOD),
        ({"audience": "tape"}, {"aud": ["other", "tape"]}, GOOD),
        *(({"audience": "tape"}, {"aud": aud}, INVALID) for aud in (None, "tapes", ["other"], [], 7, "x tape")),
        ({}, {"iss": "anybody", "aud": "anything"}, GOOD),
    ],
)
async def test_issuer_and_audience(options: dict[str, str], changed: dict[str, Any], code: str) -> None:
    assert await code_of(token(**changed), **options) == code


def _confused(algorithm: str, key: Key) -> str:
    """Signed by HMAC with the public half of somebody's key, which everybody has."""
    public: bytes = key.as_pem(private=False)  # type: ignore[union-attr]
    text = signed({"alg": "HS256", "kid": algorithm}, claims(), OTHERS["HS256"]).rpartition(".")[0]
    return f"{text}.{b64(hmac.digest(public, text.encode(), 'sha256'))}"


def _header(**header: Any) -> str:
    return signed({"alg": "ES256", "kid": "ES256", **header}, claims(), SIGNERS["ES256"], "ES256")


def _none(name: str, signature: str = "") -> str:
    return f"{b64(json.dumps({'alg': name}).encode())}.{b64(json.dumps(claims()).encode())}.{signature}"


def _changed(part: int) -> str:
    parts = token().split(".")
    parts[part] = b64(json.dumps({"alg": "ES256", "kid": "ES256"} if not part else claims(sub="eve")).encode())
    return ".".join(parts)


FORGED: dict[str, Callable[[], str]] = {
    **{f"none as {name}": partial(_none, name) for name in ("none", "None", "NONE", "")},
    **{f"none and a signature as {name}": partial(_none, name, "AAAA") for name in ("none", "nOnE")},
    **{f"public {name} as HMAC": partial(_confused, name, SIGNERS[name]) for name in ("RS256", "ES256", "EdDSA")},
    **{
        f"another {name} key": partial(signed, {"alg": name, "kid": name}, claims(), OTHERS[name])
        for name in OTHERS
    },
    "wrong kid": lambda: _header(kid="unheard"),
    "kid of another type": lambda: _header(kid="RS256"),
    "kid of another type, algorithm too": lambda: _header(alg="RS256", kid="RS256"),
    "kid is a number": lambda: _header(kid=7),
    "kid is a path": lambda: _header(kid="../../dev/null"),
    "key in the token": lambda: signed(
        {"alg": "ES256", "jwk": OTHERS["ES256"].as_dict(private=False)}, claims(), OTHERS["ES256"]
    ),
    "address of a key": lambda: signed({"alg": "ES256", "jku": "http://127.0.0.1:1/"}, claims(), OTHERS["ES256"]),
    "crit": lambda: _header(crit=["exp"]),
    "payload as it is": lambda: _header(b64=False, crit=["b64"]),
    "no alg": lambda: _header(alg=None),
    "alg is a list": lambda: _header(alg=["ES256"]),
    "HS512": lambda: signed({"alg": "HS512", "kid": "HS256"}, claims(), SIGNERS["HS256"]),
    "claims are a list": lambda: signed({"alg": "ES256"}, [claims()], SIGNERS["ES256"]),
    "claims are nested": lambda: f"{token().split('.')[0]}.{b64(b'[' * 5000)}.AAAA",
    "header is nested": lambda: f"{b64(b'[' * 5000)}.e30.AAAA",
    "claims were changed": lambda: _changed(1),
    "signature is cut": lambda: token()[:-4],
    "signature is missing": lambda: token().rpartition(".")[0] + ".",
    "two parts": lambda: token().rpartition(".")[0],
    "four parts": lambda: token() + ".AAAA",
    "line end in it": lambda: token().replace(".", "\n.", 1),
    "letters that decoders skip": lambda: token() + "*",
    "padding": lambda: token() + "==",
    "too long": lambda: token(sub="ada", more="x" * MAX_TOKEN),
    "not ASCII": lambda: token() + "é",
    "unpaired surrogate": lambda: token() + "\ud800",
    "empty": lambda: "",
    "dots": lambda: "..",
}


@pytest.mark.parametrize("name", FORGED)
async def test_forged_or_malformed(name: str) -> None:
    assert await code_of(FORGED[name]()) == INVALID


async def test_a_header_with_what_other_issuers_write_is_fine() -> None:
    assert await code_of(_header(typ="at+jwt", x5t="x", ver="1.0", more={"a": 1})) == GOOD


@pytest.mark.parametrize("kid", [None, "ES256"])
async def test_a_key_without_an_id_fits_every_token(kid: str | None) -> None:
    pem = SIGNERS["ES256"].as_pem(private=False)  # type: ignore[union-attr]
    header = {"alg": "ES256"} if kid is None else {"alg": "ES256", "kid": kid}
    assert await code_of(signed(header, claims(), SIGNERS["ES256"]), data=pem) == GOOD
    assert await code_of(signed(header, claims(), OTHERS["ES256"]), data=pem) == INVALID


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_pem(algorithm: str) -> None:
    (key,) = parse_key_set(SIGNERS[algorithm].as_pem(private=False))  # type: ignore[union-attr]
    assert algorithm in key.algorithms
    with pytest.raises(BadKeySet, match="private"):
        parse_key_set(SIGNERS[algorithm].as_pem(private=True))  # type: ignore[union-attr]


SHORT_RSA = rsa.generate_private_key(65_537, 1_024).public_key().public_bytes(*PEM)
SHORT = {"kty": "oct", "k": b64(b"hunter2")}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither"),
        (b"hunter2", "neither"),
        (b"[" * 100_000, "neither"),
        (b"7", "list"),
        (b'{"keys": {}}', "list"),
        (b'{"keys": []}', "empty"),
        (json.dumps({"keys": [{}] * 101}).encode(), "at most 100"),
        (b'{"keys": [7, null, "x", []]}', "no JSON object"),
        (b'{"keys": [{"kty": "AKP", "x": "hunter2"}]}', "cannot be read"),
        (b'{"keys": [{"kty": ["oct"]}]}', "cannot be read"),
        (b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "hunter2", "y": 7}]}', "cannot be read"),
        (json.dumps(SHORT).encode(), "shorter than 32 bytes"),
        (SHORT_RSA, "shorter than 2048 bits"),
        (ECKey.generate_key("P-384").as_pem(private=False), "another curve"),
        (OKPKey.generate_key("X25519").as_pem(private=False), "another curve"),
        (published(SIGNERS, use="enc"), "not for signatures"),
        (published(SIGNERS, key_ops=["sign"]), "not for signatures"),
        (published(SIGNERS, alg="PS256"), "another algorithm"),
        (b"-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----", "no public key"),
        (b"-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----", "certificate"),
    ],
)
def test_key_sets_that_are_no_good(data: bytes, said: str) -> None:
    with pytest.raises(BadKeySet) as caught:
        parse_key_set(data)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_key_that_is_no_good_leaves_the_others() -> None:
    keys = json.loads(published(SIGNERS))["keys"]
    found = parse_key_set(json.dumps({"keys": [SHORT, *keys, {"kty": "AKP"}]}).encode())
    assert [key.kid for key in found] == list(SIGNERS)
    assert all(isinstance(key, VerifyingKey) and "key=" not in repr(key) for key in found)


# Keys that change


class Rotated(KeySet):
    """A key set whose place the test controls; None stands for an address that is away."""

    def __init__(self, data: bytes | None) -> None:
        super().__init__("memory")
        self.published = data
        self.reads = 0

    async def _load(self) -> None:
        self._fetched = trio.current_time()
        self.reads += 1
        if self.published is None:
            raise BadKeySet("its URL cannot be reached")
        if self.published != self._data:
            self.keys, self._data = parse_key_set(self.published), self.published
            self.version += 1


def opened(keys: Rotated) -> Authenticator:
    return Authenticator(
        MemoryAuthStore(), jwt=JwtVerifier(keys, now=lambda: NOW + trio.current_time() - BEGUN[0])
    )


BEGUN = [0.0]


def presented(text: str) -> Presented:
    return Presented(f"Bearer {text}")


async def test_an_unknown_key_id_has_the_keys_read_again_but_seldom(autojump_clock: MockClock) -> None:
    BEGUN[0] = trio.current_time()
    keys = Rotated(published({"ES256": SIGNERS["ES256"]}))
    authenticator = opened(keys)
    async with authenticator.open():
        assert keys.reads == 1
        await trio.sleep(31)
        for _ in range(50):  # somebody who sends nonsense
            with pytest.raises(Problem):
                await authenticator.authenticate(presented(_header(kid="unheard")))
        assert keys.reads == 2
        keys.published = published(SIGNERS)
        await trio.sleep(31)
        assert (await authenticator.authenticate(presented(token("EdDSA", exp=NOW + 9e5)))).tenant == "acme"
        assert keys.reads == 3


async def test_a_key_that_was_taken_away_ends_its_tokens_and_their_streams(autojump_clock: MockClock) -> None:
    BEGUN[0] = trio.current_time()
    keys = Rotated(published(SIGNERS))
    authenticator = opened(keys)
    async with authenticator.open():
        gone, stays = (token(name, exp=NOW + 9e5) for name in ("RS256", "ES256"))
        streams = [
            Stream(authenticator, await authenticator.authenticate(presented(one))) for one in (gone, stays)
        ]
        keys.published = published({name: key for name, key in SIGNERS.items() if name != "RS256"})
        await trio.sleep(590)
        assert streams[0].times == 0
        await trio.sleep(20)  # they are read again every ten minutes
        assert [stream.times for stream in streams] == [1, 0]
        assert authenticator.cached(presented(gone)) is None
        with pytest.raises(Problem) as caught:
            await authenticator.authenticate(presented(gone))
        assert caught.value.code == INVALID


@pytest.mark.parametrize("made", ["session", "ticket", "ticket of a session"])
async def test_a_key_that_was_taken_away_ends_what_was_made_from_its_tokens(
    autojump_clock: MockClock, made: str
) -> None:
    """Their streams too, on a process that has not seen the token: else a forged token is good for half a day."""
    BEGUN[0] = trio.current_time()
    keys = Rotated(published(SIGNERS))
    store = MemoryAuthStore()
    one, two = (
        Authenticator(store, jwt=JwtVerifier(keys, now=lambda: NOW + trio.current_time() - BEGUN[0]))
        for _ in range(2)
    )
    async with one.open(), two.open():
        streams, texts = [], []
        for signer in ("RS256", "ES256"):
            whose = await one.authenticate(presented(token(signer, exp=NOW + 9e5, scopes=list(ALL_SCOPES))))
            if made != "ticket":
                session = await one.create_session(whose)
                texts.append(Presented(cookie=session.text))
                whose = await two.authenticate(texts[-1])
            if made != "session":
                ticket = await one.issue_ticket(whose, "conv_1")
                texts.append(Presented(ticket=ticket.text, reader=Reader("::1", stream="conv_1", resumes=True)))
            streams.append(Stream(two, await two.authenticate(texts[-1])))
        keys.published = published({name: key for name, key in SIGNERS.items() if name != "RS256"})
        await trio.sleep(610)  # they are read again every ten minutes
        assert [stream.times for stream in streams] == [1, 0]
        half = len(texts) // 2
        for presented_again in texts[:half]:
            for authenticator in (one, two):
                with pytest.raises(Problem) as caught:
                    await authenticator.authenticate(presented_again)
                assert caught.value.code == "revoked_credential"
        for presented_again in texts[half:]:
            assert (await two.authenticate(presented_again)).subject == "ada"
        keys.published = None


async def test_sessions_of_tokens_wait_for_the_keys_that_verify_them(autojump_clock: MockClock) -> None:
    """A server that starts while the keys cannot be read says so, and does not take the session at its word."""
    BEGUN[0] = trio.current_time()
    keys = Rotated(published(SIGNERS))
    store = MemoryAuthStore()
    before = Authenticator(store, jwt=JwtVerifier(keys, now=lambda: NOW))
    async with before.open():
        session = await before.create_session(await before.authenticate(presented(token(exp=NOW + 9e5))))
    for jwt, status in ((JwtVerifier(Rotated(None), now=lambda: NOW), 503), (None, 401)):
        after = Authenticator(store, jwt=jwt, require_keys=True)
        async with after.open():
            with pytest.raises(Problem) as caught:
                await after.authenticate(Presented(cookie=session.text))
            assert caught.value.status == status


async def test_the_last_good_keys_stay_while_their_place_is_away(autojump_clock: MockClock) -> None:
    BEGUN[0] = trio.current_time()
    keys = Rotated(None)
    authenticator = opened(keys)
    async with authenticator.open():
        with pytest.raises(Problem) as caught:
            await authenticator.authenticate(presented(token(exp=NOW + 9e5)))
        assert (caught.value.status, caught.value.code) == (503, "unavailable")
        keys.published = published(SIGNERS)
        await trio.sleep(31)
        assert await authenticator.authenticate(presented(token(exp=NOW + 9e5)))
        keys.published = None
        await trio.sleep(3_000)
        assert await authenticator.authenticate(presented(token("HS256", exp=NOW + 9e5)))


async def test_a_token_ends_its_streams_sessions_and_tickets_at_exp(autojump_clock: MockClock) -> None:
    BEGUN[0] = trio.current_time()
    authenticator = opened(Rotated(published(SIGNERS)))
    async with authenticator.open():
        text = token(exp=NOW + 100, scopes=list(ALL_SCOPES))
        principal = await authenticator.authenticate(presented(text))
        assert authenticator.cached(presented(text)) is principal
        assert isinstance(principal.live, LiveCredential)
        session = await authenticator.create_session(principal)
        assert session.seconds == pytest.approx(100, abs=0.1)
        by_cookie = await authenticator.authenticate(Presented(cookie=session.text))
        assert by_cookie.caller == principal.caller == "acme/ada"
        streams = [Stream(authenticator, one) for one in (principal, by_cookie)]
        await trio.sleep(101)
        assert [one.ended - BEGUN[0] for one in streams] == pytest.approx([100, 100], abs=0.1)
        with pytest.raises(Problem) as caught:
            await authenticator.authenticate(presented(text))
        assert caught.value.code == EXPIRED


async def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = KeySet(str(file))
    with pytest.raises(BadKeySet, match="No such file"):
        await keys.load()
    file.write_bytes(published(SIGNERS))
    await keys.load()
    assert (len(keys.keys), keys.version) == (4, 1)
    await keys.load()
    assert keys.version == 1
    file.write_bytes(b"nonsense")
    with pytest.raises(BadKeySet):
        await keys.load()
    assert (len(keys.keys), keys.version) == (4, 1)


TEXT = st.text(max_size=60) | st.sampled_from(["none", "HS256", "RS256", "ES256", "EdDSA", "Ed25519"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
HEADERS = st.fixed_dictionaries({}, optional={"alg": TEXT | JSON, "kid": TEXT | JSON, "typ": JSON, "crit": JSON})
BODIES = st.fixed_dictionaries(
    {"exp": st.just(NOW + 60) | JSON},
    optional=dict.fromkeys(("tenant", "sub", "scopes", "scope", "conversations", "nbf", "iat", "aud"), JSON),
)
READY = verifier()


async def _refused_or_good(text: str) -> None:
    found = await _outcome(READY, text)
    if isinstance(found, LiveCredential):
        assert found.principal.scopes <= ALL_SCOPES
        assert found.principal.scopes
    else:
        assert found.status == 401


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}"))
@settings(deadline=None)
def test_no_text_makes_it_fail(text: str) -> None:
    trio.run(_refused_or_good, text)


@given(HEADERS | JSON, BODIES | JSON)
@settings(deadline=None)
def test_no_header_and_no_claims_make_it_fail(header: Any, body: Any) -> None:
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    trio.run(_refused_or_good, f"{text}.AAAA")
    trio.run(_refused_or_good, signed({"alg": "HS256"}, body, SIGNERS["HS256"]))


def test_the_clock_is_the_worlds() -> None:
    assert JwtVerifier(KeySet("/nowhere"))._now is time.time
