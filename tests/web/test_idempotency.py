"""Idempotency keys: what one is worth, how long it lives, and when two bodies are the same request."""

import pytest

from server.conversations.command_types import ANONYMOUS_CALLER, Caller
from server.conversations.idempotency_keys import CLIENT_KEY_SECONDS, idempotency_key
from server.problem import Problem
from server.web.commands.request_models import parse

BODY = {"model": "demo", "parameters": {"tokens": 2, "rate": 0.5}, "input": "ü"}
SAME = [
    '{"model":"demo","parameters":{"tokens":2,"rate":0.5},"input":"ü"}',
    '{ "input" : "\\u00fc", "parameters" : { "rate": 0.5, "tokens": 2 }, "model" : "demo" }',
    '{"input":"x","model":"demo","parameters":{"rate":5e-1,"tokens":2},"input":"ü"}',
    '{"model":"demo","parameters":{"tokens":2.0,"rate":0.5},"input":"ü"}',
    '{"model":"demo","parameters":{"tokens":2e0,"rate":0.50},"input":"ü"}',
    '{"model":"demo","parameters":{"tokens":0.2e1,"rate":50e-2},"input":"ü"}',
]
OTHER = [
    '{"model":"demo","parameters":{"tokens":2,"rate":0.5},"input":"u"}',
    '{"model":"demo","parameters":{"tokens":2,"rate":0.5}}',
    '{"model":"demo","parameters":{"tokens":2,"rate":0.5},"input":null}',
    '{"model":"demo","parameters":{"tokens":"2","rate":0.5},"input":"ü"}',
    '{"model":"demo","parameters":[{"tokens":2},{"rate":0.5}],"input":"ü"}',
    '{"model":"demo","tokens":2,"parameters":{"rate":0.5},"input":"ü"}',
    '{"model":"demo","parameters":{"tokens":true,"rate":0.5},"input":"ü"}',
]


def test_bodies_are_compared_as_parsed_json() -> None:
    first = idempotency_key("k", ANONYMOUS_CALLER, "POST /v1/x", BODY)
    assert all(idempotency_key("k", ANONYMOUS_CALLER, "POST /v1/x", parse(text)) == first for text in SAME)
    others = [idempotency_key("k", ANONYMOUS_CALLER, "POST /v1/x", parse(text)) for text in OTHER]
    digests = {key.digest for key in [first, *others] if key is not None}
    assert len(digests) == 1 + len(OTHER)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0", "-0.0", True),
        ("1", "1.0", True),
        ("-1", "-1e0", True),
        ('[1, {"a": 2}]', '[1.0, {"a": 2.00}]', True),
        ("1000000000000000000", "1e18", True),
        (str(-(2**63)), "-9223372036854775808.0", True),
        ("1", "1.5", False),
        ("1", "true", False),
        ("1", '"1"', False),
        ("0", "null", False),
        ("0", "false", False),
        ("9007199254740993", "9007199254740992.0", False),
        (str(2**63 - 1), "9223372036854775807.0", False),  # the float is 2**63
        ("1e300", "1e301", False),
        ("1.5e300", "15e299", True),
    ],
)
def test_numbers_are_compared_by_value(one: str, other: str, same: bool) -> None:
    """However they are spelled (RFC 8259 section 6): a client written anew may spell them otherwise."""
    keys = [
        idempotency_key("k", ANONYMOUS_CALLER, "POST /x", parse(f'{{"input":{number}}}'))
        for number in (one, other)
    ]
    assert (keys[0] == keys[1]) is same


def test_lists_keep_their_order() -> None:
    keys = [idempotency_key("k", ANONYMOUS_CALLER, "POST /x", {"input": order}) for order in ([1, 2], [2, 1])]
    assert keys[0] != keys[1]


def test_a_key_is_scoped_to_caller_method_and_path() -> None:
    key = idempotency_key("k", ANONYMOUS_CALLER, "POST /v1/x", {})
    other = idempotency_key("k", ANONYMOUS_CALLER, "POST /v1/y", {})
    assert key is not None
    assert other is not None
    assert (key.scope, key.name) == ("anonymous POST /v1/x", "k")
    assert key.scope != other.scope
    assert key.digest == other.digest
    assert key.seconds == CLIENT_KEY_SECONDS >= 24 * 3600


CALLERS = [
    ANONYMOUS_CALLER,
    Caller("anonymous", "acme", frozenset()),
    Caller("anonymous/x", "acme", frozenset()),
    Caller("ann", "acme", frozenset()),
    Caller("ann", "default", frozenset()),
    Caller("ann POST /v1/x", "acme", frozenset()),
    Caller("", "acme", frozenset()),
]


def test_no_caller_finds_the_keys_of_another() -> None:
    keys = [idempotency_key("k", caller, path, {}) for caller in CALLERS for path in ("POST /v1/x", "POST /v1/y")]
    assert len({key.scope for key in keys if key is not None}) == len(keys)


def test_a_caller_keeps_its_keys_when_its_scopes_change() -> None:
    before, after = (
        Caller("ann", "acme", scopes) for scopes in (frozenset({"write"}), frozenset({"read", "write"}))
    )
    assert idempotency_key("k", before, "POST /v1/x", {}) == idempotency_key("k", after, "POST /v1/x", {})


def test_without_a_key_there_is_none() -> None:
    assert idempotency_key(None, ANONYMOUS_CALLER, "POST /v1/x", {}) is None


@pytest.mark.parametrize("name", ["k", "x" * 255, "a1-_.:/+=~!", "\x21\x7e"])
def test_good_keys(name: str) -> None:
    found = idempotency_key(name, ANONYMOUS_CALLER, "POST /v1/x", {})
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 256, "ü", "a\tb", "a\0", "k\n", "\x7f"])
def test_bad_keys(name: str) -> None:
    with pytest.raises(Problem) as caught:
        idempotency_key(name, ANONYMOUS_CALLER, "POST /v1/x", {})
    assert (caught.value.status, caught.value.code) == (400, "invalid_idempotency_key")
    assert "255" in caught.value.detail
