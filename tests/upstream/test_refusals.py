"""What a response other than 200 means, and how long it asks to wait."""

from __future__ import annotations

import json

import pytest

from server.upstream.errors import CODES, UpstreamError
from server.upstream.refusals import error_in, refusal, retry_after, stream_error
from server.upstream.wording import Quoter, error_text

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
KEY = "sk-0123456789"


def refused(status: int, body: bytes = b"", **headers: str) -> UpstreamError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusal(status, named, body, Quoter(KEY), NOW)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (204, "upstream_malformed", False),
        (301, "upstream_bad_request", False),
        (307, "upstream_bad_request", False),
        (400, "upstream_bad_request", False),
        (401, "upstream_unauthorized", False),
        (402, "upstream_bad_request", False),
        (403, "upstream_unauthorized", False),
        (404, "upstream_bad_request", False),
        (407, "upstream_unavailable", False),
        (408, "upstream_timeout", True),
        (409, "upstream_unavailable", True),
        (413, "upstream_bad_request", False),
        (422, "upstream_bad_request", False),
        (429, "upstream_rate_limited", True),
        (500, "upstream_unavailable", True),
        (503, "upstream_unavailable", True),
        (529, "upstream_unavailable", True),
        (599, "upstream_unavailable", True),
    ],
)
def test_codes(status: int, code: str, retryable: bool) -> None:
    error = refused(status)
    assert (error.code, error.retryable) == (code, retryable)
    assert str(status) in error.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "3 a minute. Try again in 20s, or see https://platform.openai.com/account/billing",'
        b' "type": "requests", "code": "rate_limit_exceeded"}}',
        b'[{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and '
        b'billing details. Please retry in 17s.", "status": "RESOURCE_EXHAUSTED"}}]',
        b"too many; see /billing",
    ],
)
def test_a_limit_that_passes_is_worth_a_retry_though_it_speaks_of_money(body: bytes) -> None:
    error = refused(429, body, retry_after="3")
    assert (error.code, error.retryable) == ("upstream_rate_limited", True)


def test_every_code_is_in_the_table() -> None:
    with pytest.raises(KeyError):
        UpstreamError("upstream_surprise", "?")
    assert UpstreamError("upstream_cut", "x").retryable is CODES["upstream_cut"].retryable


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "no money", "code": "insufficient_quota"}}',
        b'{"error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}}',
        b'{"error": {"type": "billing_error", "message": "no money"}}',
    ],
)
def test_an_empty_account_is_not_worth_a_retry(body: bytes) -> None:
    error = refused(429, body, retry_after="3")
    assert (error.code, error.retryable, error.retry_after) == ("upstream_rate_limited", False, 3)


def test_where_a_redirect_goes_is_for_the_servers_own_log() -> None:
    error = refused(308, location="https://else.example/v1")
    assert "https://else.example/v1" in error.detail
    assert "else.example" not in error.message
    assert "nowhere" in refused(302).detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT"}, 10),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:07 GMT"}, 0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 06 Nov 99999 08:49:37 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "said"}}, "said"),
        ({"error": "said"}, "said"),
        ({"message": "said", "object": "error"}, "said"),
        ({"detail": "said"}, "said"),
        ({"error": None, "detail": "said"}, "said"),
        ({"detail": [{"msg": "x"}]}, "x"),
        (
            {"detail": [{"loc": ["body", "stream_options"], "msg": "no"}, {"msg": "x"}]},
            "body.stream_options: no; x",
        ),
        ({"message": {"detail": [{"loc": ["body", 0], "msg": "no"}]}, "object": "error"}, "body.0: no"),
        ([{"error": {"code": 400, "message": "said", "status": "INVALID_ARGUMENT"}}], "said"),
        ({"error_type": "BadRequestError", "error_message": "said"}, "said"),
        ({"error parsing tool call": "said"}, "error parsing tool call: said"),
        ({"error": {"message": "", "msg": "said"}}, "said"),
        ([1], "[1]"),
    ],
)
def test_where_a_message_is_found(body: object, text: str) -> None:
    assert error_text(json.dumps(body).encode()) == text


@pytest.mark.parametrize("body", [b"<html>", b'{"error": {"mess', b"\xff", b"[" * 100_000, b""])
def test_a_body_of_another_shape_is_quoted_as_it_is(body: bytes) -> None:
    assert error_text(body) == body.decode(errors="replace")


def test_words_are_made_harmless_in_one_line_without_the_key() -> None:
    quote = Quoter(KEY)
    assert quote(f"a\r\n\x00{KEY} \ud83d\x1b[31m {KEY}") == "a [key] \ufffd [31m [key]"
    assert quote("x" * 600) == "x" * 499 + "…"
    assert KEY[:4] not in quote("x" * 495 + KEY)  # cut after it was struck out, not before
    assert KEY not in repr(quote)
    assert Quoter(None)("key") == "key"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("no route to 10.0.0.5:8080", "no route to [address]"),
        ("172.16.0.1, 172.32.0.1, 192.168.1.1, 8.8.8.8", "[address], 172.32.0.1, [address], 8.8.8.8"),
        ("127.0.0.1 and ::1 and [fd00::1]:80", "[address] and [address] and [address]"),
        ("version 10.0.0.5.1 of 1.10.0.0.5", "version 10.0.0.5.1 of 1.10.0.0.5"),
        ("Generated by Squid.internal:3128 (squid/6)", "Generated by [host] (squid/6)"),
        ("http://llm.corp:8000/v1 is not mysquid.example", "http://[host]/v1 is not mysquid.example"),
    ],
)
def test_what_the_operators_network_is_like_is_not_told_to_readers(words: str, shown: str) -> None:
    quote = Quoter(KEY, hosts=["squid.internal", "llm.corp", ""])
    assert quote(words) == shown
    assert quote.private(f"{words} {KEY}") == f"{words} [key]"
    assert quote.withheld(words) == ("" if words == shown else words)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (b"<html><head><title>502 Bad</title></head><body><p>nginx</p></body></html>", "502 Bad nginx"),
        (b"<!DOCTYPE html><script>var x = '<p>';</script><p>Blocked", "Blocked"),
        (b"<p>one<!-- hidden -->two", "one two"),
        (b"<html><body><", "<html><body><"),
    ],
)
def test_of_a_page_one_sees_the_words(page: bytes, text: str) -> None:
    assert Quoter()(error_text(page)) == text


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [1],
        3,
        "error",
        None,
        {"error": None},
        {"error": ""},
        {"error": {}},
        {"error": False},
        {"type": "ping"},
        {"code": 0, "message": "success"},
        {"code": "200", "message": "OK"},
        {"message": "hello"},
        {"choices": [{}], "code": "x", "message": "y"},
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"detail": None},
    ],
)
def test_what_is_no_error(value: object) -> None:
    assert error_in(value) is None


@pytest.mark.parametrize(
    ("error", "whole", "code", "retryable"),
    [
        ({"code": "429"}, False, "upstream_error", True),
        ({"code": "400"}, False, "upstream_error", False),
        ({"code": 1302, "message": "busy"}, False, "upstream_error", True),  # GLM's own numbers
        ({"type": "tokens", "code": "rate_limit_exceeded"}, True, "upstream_rate_limited", True),
        ({"type": "insufficient_quota", "code": 429}, True, "upstream_rate_limited", False),
        ({"code": 401}, True, "upstream_unauthorized", False),
        ({"status": "UNAVAILABLE"}, True, "upstream_unavailable", True),
        ({"status": "INVALID_ARGUMENT", "code": 400}, True, "upstream_bad_request", False),
        ({"type": "BadRequestError"}, True, "upstream_bad_request", False),
        ({"error_type": "context_length_exceeded"}, False, "upstream_error", False),
        ({"type": "overloaded_error"}, True, "upstream_unavailable", True),
        ({"metadata": {"error_type": "provider_unavailable"}}, True, "upstream_unavailable", True),
        ({"type": "invalid_request_error", "code": 503}, True, "upstream_unavailable", True),  # the number counts
        ({"code": True}, True, "upstream_error", True),
        ("words", True, "upstream_error", True),
        ([1], True, "upstream_error", True),
    ],
)
def test_what_an_error_object_says_of_itself(error: object, whole: bool, code: str, retryable: bool) -> None:
    told = stream_error(error, Quoter(KEY), whole=whole)
    assert (told.code, told.retryable, told.detail) == (code, retryable, "")


def test_what_readers_may_not_see_is_for_the_servers_own_log() -> None:
    error = {"error": {"message": f"no answer from 10.0.0.5:8080 with {KEY}"}}
    answers = [refused(502, json.dumps(error).encode()), stream_error(error, Quoter(KEY))]
    assert [answer.detail for answer in answers] == ["no answer from 10.0.0.5:8080 with [key]"] * 2
    assert all(answer.message.endswith("no answer from [address] with [key]") for answer in answers)
    assert refused(500, b"words").detail == ""


@pytest.mark.parametrize(
    ("words", "shown", "own"),
    [
        # A gateway's own database, by its library's words.
        ("at postgresql://u:p@w@db.prod/llm", "at postgresql://[login]@db.prod/llm", None),
        ("no route to a.b.svc.cluster.local:8000", "no route to [host]", "no route to a.b.svc.cluster.local:8000"),
        ("see http://gw.corp/x", "see http://[host]/x", "see http://gw.corp/x"),
        ("see https://docs.example.com/a@b.local.org", "see https://docs.example.com/a@b.local.org", None),
        ("use internal, or config.locale", "use internal, or config.locale", None),
    ],
)
def test_what_a_gateway_tells_of_its_inside(words: str, shown: str, own: str | None) -> None:
    quote = Quoter(KEY)
    assert (quote(words), quote.private(words)) == (shown, own or shown)
