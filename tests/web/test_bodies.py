"""Request bodies: what is no JSON, what must never enter the log, and when two bodies are the same request."""

import json
from typing import Any

import pytest

from server.errors import Problem
from server.web.commands.request_body import DEEPEST, KEY_SECONDS, idempotency_key, parse, read_json

from .upgrades import request


def refused(text: bytes | str) -> Problem:
    """The problem a body meets with."""
    with pytest.raises(Problem) as caught:
        parse(text)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        (
            b' {"a": [1, -2.5, 1e3, "x", null, true, {"b": ""}]} ',
            {"a": [1, -2.5, 1000.0, "x", None, True, {"b": ""}]},
        ),
        ('{"a":1,"a":2}', {"a": 2}),
        (b'{"\\u00fc":"\\ud83d\\ude00"}', {"ü": "\U0001f600"}),
        ('{"a":"\u2028\u0085\ufeff\ufffd"}', {"a": "\u2028\x85\ufeff\ufffd"}),
        (f'{{"a":{2**63 - 1},"b":{-(2**63)}}}', {"a": 2**63 - 1, "b": -(2**63)}),
        ('{"a":1e18,"b":5e-324}', {"a": 1e18, "b": 5e-324}),
        ('{"a":1.7976931348623157e308}', {"a": 1.7976931348623157e308}),
    ],
)
def test_what_is_taken(text: bytes | str, value: dict[str, Any]) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b'{"a":}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":1} x',
        b'{"a":01}',
        b'{"a":"\n"}',
        b'{"a":"\x00"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":[-Infinity]}',
        b"NaN",
        b"undefined",
        b'{"a":"\xff"}',
        b"\x80",
        b"\xff\xfe",
    ],
)
def test_what_is_no_json(text: bytes) -> None:
    problem = refused(text)
    assert (problem.status, problem.code) == (400, "invalid_json")
    assert "JSON" in problem.detail


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null", "true", "1e999", str(2**70)])
def test_what_is_no_object(text: str) -> None:
    problem = refused(text)
    assert (problem.status, problem.code) == (422, "invalid_request")
    assert "object" in problem.detail


HUGE = [str(2**63), str(-(2**63) - 1), "1e999", "-1e999", "1" * 400, "1" * 400 + ".0"]
BEYOND = "1" * 5_000


@pytest.mark.parametrize("number", [*HUGE, BEYOND])
@pytest.mark.parametrize(
    ("shape", "field"), [('{"a":%s}', "a"), ('{"a":{"b":[0,%s]}}', "a.b.1"), ('{"a":[[%s]]}', "a.0.0")]
)
def test_numbers_that_no_reader_could_keep(number: str, shape: str, field: str) -> None:
    problem = refused(shape % number)
    assert (problem.status, problem.code) == (422, "invalid_request")
    assert problem.extra == {"field": field}
    assert problem.detail.startswith(f"{field}: ")
    assert "64 bits" in problem.detail


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting(opening: str) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]

    def nested(depth: int) -> str:
        inner = depth - 1  # the object around it is the first level
        return '{"x":' + opening * inner + "1" + closing * inner + "}"

    assert parse(nested(DEEPEST - 1))
    for depth in (DEEPEST + 1, 500, 100_000):
        problem = refused(nested(depth))
        assert (problem.status, problem.code, problem.extra) == (422, "invalid_request", {"limit": DEEPEST})
        assert str(DEEPEST) in problem.detail


UNCLEAN = [
    ("\\u0000", "U+0000"),
    ("x\\u0000y", "U+0000"),
    ("\\ud83d", "U+D83D"),
    ("\\ude00", "U+DE00"),
    ("\\ude00\\ud83d", "U+DE00"),
    ("\\ud83dx", "U+D83D"),
    ("\\udbff\\ud83d\\ude00", "U+DBFF"),
]


@pytest.mark.parametrize(("text", "name"), UNCLEAN)
@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ('{"a":"%s"}', "a"),
        ('{"a":{"b":["","%s"]}}', "a.b.1"),
        ('{"a":[{"b":"%s"}]}', "a.0.b"),
        # A name that cannot be shown is told by where it stands.
        ('{"%s":1}', "(a name)"),
        ('{"a":{"%s":1}}', "a"),
        ('{"a":[1,{"%s":1}]}', "a.1"),
        ('{"a":{"%s":{"b":1}}}', "a"),
    ],
)
def test_text_that_must_never_enter_the_log(text: str, name: str, shape: str, field: str) -> None:
    problem = refused(shape % text)
    assert (problem.status, problem.code) == (422, "invalid_text")
    assert problem.extra == {"field": field}
    assert problem.detail.startswith(f"{field}: ")
    assert name in problem.detail
    problem.detail.encode()  # it can be sent


def test_surrogates_as_bytes() -> None:
    """UTF-8 has none; who encodes one all the same (CESU-8) means one."""
    assert refused(b'{"a":"\xed\xa0\x80"}').code == "invalid_text"


def test_a_surrogate_pair_is_a_character() -> None:
    assert parse(b'{"a":"\\ud83d\\ude00","\\ud83d\\ude00":1}') == {"a": "\U0001f600", "\U0001f600": 1}


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("application/json", b'{"a":1}', {"a": 1}),
        ("application/json; charset=utf-8", b'{"a":1}', {"a": 1}),
        ("APPLICATION/JSON", b'{"a":1}', {"a": 1}),
        (None, b"", {}),
        ("text/plain", b"", {}),
    ],
)
async def test_a_requests_body(kind: str | None, body: bytes, value: dict[str, Any]) -> None:
    """An absent one is an empty one, whatever it is said to be."""
    asked = request("POST", {} if kind is None else {"Content-Type": kind})
    asked.body.set_result(body)
    assert await read_json(asked) == value


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
async def test_a_body_of_another_type(kind: str | None) -> None:
    """What a form on any web page can send without asking is not taken for a command."""
    asked = request("POST", {} if kind is None else {"Content-Type": kind})
    asked.body.set_result(b'{"a":1}')
    with pytest.raises(Problem) as caught:
        await read_json(asked)
    assert (caught.value.status, caught.value.code) == (415, "unsupported_media_type")
    assert "application/json" in caught.value.detail


BODY = {"model": "demo", "parameters": {"tokens": 2, "rate": 0.5}, "input": "ü"}
SAME = [
    '{"model":"demo","parameters":{"tokens":2,"rate":0.5},"input":"ü"}',
    '{ "input" : "\\u00fc", "parameters" : { "rate": 0.5, "tokens": 2 }, "model" : "demo" }',
    '{"input":"x","model":"demo","parameters":{"rate":5e-1,"tokens":2},"input":"ü"}',
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
    first = idempotency_key("k", "POST /v1/x", BODY)
    assert all(idempotency_key("k", "POST /v1/x", parse(text)) == first for text in SAME)
    others = [idempotency_key("k", "POST /v1/x", parse(text)) for text in OTHER]
    digests = {key.digest for key in [first, *others] if key is not None}
    assert len(digests) == 1 + len(OTHER)


def test_lists_keep_their_order() -> None:
    keys = [idempotency_key("k", "POST /x", {"input": order}) for order in ([1, 2], [2, 1])]
    assert keys[0] != keys[1]


def test_a_key_is_scoped_to_caller_method_and_path() -> None:
    key = idempotency_key("k", "POST /v1/x", {})
    other = idempotency_key("k", "POST /v1/y", {})
    assert key is not None
    assert other is not None
    assert (key.scope, key.name) == ("anonymous POST /v1/x", "k")
    assert key.scope != other.scope
    assert key.digest == other.digest
    assert key.seconds == KEY_SECONDS >= 24 * 3600


def test_without_a_key_there_is_none() -> None:
    assert idempotency_key(None, "POST /v1/x", {}) is None


@pytest.mark.parametrize("name", ["k", "x" * 255, "a1-_.:/+=~!", "\x21\x7e"])
def test_good_keys(name: str) -> None:
    found = idempotency_key(name, "POST /v1/x", {})
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 256, "ü", "a\tb", "a\0", "k\n", "\x7f"])
def test_bad_keys(name: str) -> None:
    with pytest.raises(Problem) as caught:
        idempotency_key(name, "POST /v1/x", {})
    assert (caught.value.status, caught.value.code) == (400, "invalid_idempotency_key")
    assert "255" in caught.value.detail


def test_what_is_parsed_can_be_stored_as_it_is() -> None:
    text = json.dumps({"a": [1, 2.5, "ü\U0001f600", {"b": None}]})
    assert json.loads(json.dumps(parse(text))) == parse(text)
