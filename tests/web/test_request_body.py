"""Request bodies: what is no JSON, and what must never enter the log."""

import json
from typing import Any

import pytest

from server.problem import Problem
from server.web.commands.request_models import MAX_DEPTH, parse, read_body


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
def test_invalid_json(text: bytes) -> None:
    problem = refused(text)
    assert (problem.status, problem.code) == (400, "invalid_json")
    assert "JSON" in problem.detail


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null", "true", "1e999", str(2**70)])
def test_json_that_is_no_object(text: str) -> None:
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

    assert parse(nested(MAX_DEPTH - 1))
    for depth in (MAX_DEPTH + 1, 500, 100_000):
        problem = refused(nested(depth))
        assert (problem.status, problem.code, problem.extra) == (422, "invalid_request", {"limit": MAX_DEPTH})
        assert str(MAX_DEPTH) in problem.detail


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
def test_a_requests_body(kind: str | None, body: bytes, value: dict[str, Any]) -> None:
    """An absent one is an empty one, whatever it is said to be."""
    assert read_body({} if kind is None else {"content-type": kind}, body) == value


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_a_body_of_another_type(kind: str | None) -> None:
    """What a form on any web page can send without asking is not taken for a command."""
    with pytest.raises(Problem) as caught:
        read_body({} if kind is None else {"content-type": kind}, b'{"a":1}')
    assert (caught.value.status, caught.value.code) == (415, "unsupported_media_type")
    assert "application/json" in caught.value.detail


def test_what_is_parsed_can_be_stored_as_it_is() -> None:
    text = json.dumps({"a": [1, 2.5, "ü\U0001f600", {"b": None}]})
    assert json.loads(json.dumps(parse(text))) == parse(text)
