"""What a response other than 200 means, and how long it asks to wait."""

from __future__ import annotations

import json

import pytest

from server.upstream.errors import CODES, UpstreamError
from server.upstream.refusals import refusal, retry_after
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


def test_every_code_is_in_the_table() -> None:
    with pytest.raises(KeyError):
        UpstreamError("upstream_surprise", "?")
    assert UpstreamError("upstream_cut", "x").retryable is CODES["upstream_cut"].retryable


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "no money", "code": "insufficient_quota"}}',
        b'{"error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}}',
    ],
)
def test_an_empty_account_is_not_worth_a_retry(body: bytes) -> None:
    error = refused(429, body, retry_after="3")
    assert (error.code, error.retryable, error.retry_after) == ("upstream_rate_limited", False, 3)


def test_a_redirect_says_where_to() -> None:
    assert "https://else.example/v1" in refused(308, location="https://else.example/v1").message
    assert "nowhere" in refused(302).message


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
        ({"detail": [{"msg": "x"}]}, '{"detail": [{"msg": "x"}]}'),
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
