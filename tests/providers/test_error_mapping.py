"""Error codes of failed requests, refusals and error objects; Retry-After; and the redaction of messages."""

from __future__ import annotations

import json

import pytest

from server.http_client.errors import (
    CertificateError,
    ConnectError,
    ConnectionCut,
    ConnectTimeout,
    HttpClientError,
    MalformedResponse,
    ProxyError,
    ReadTimeout,
    ResponseTimeout,
    SendTimeout,
    TunnelError,
)
from server.providers.decoding.error_mapping import (
    find_error,
    request_error,
    response_error,
    retry_after,
    stream_error,
)
from server.providers.decoding.redaction import Redactor, error_message
from server.providers.interface import CODES, UpstreamError

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
KEY = "sk-0123456789"


def refused(status: int, body: bytes = b"", **headers: str) -> UpstreamError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return response_error(status, named, body, Redactor(KEY), NOW)


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
def test_code_of_each_status(status: int, code: str, retryable: bool) -> None:
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
def test_rate_limit_that_mentions_billing_is_retryable(body: bytes) -> None:
    error = refused(429, body, retry_after="3")
    assert (error.code, error.retryable) == ("upstream_rate_limited", True)


def test_unknown_code_raises() -> None:
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
def test_empty_account_is_not_retryable(body: bytes) -> None:
    error = refused(429, body, retry_after="3")
    assert (error.code, error.retryable, error.retry_after) == ("upstream_rate_limited", False, 3)


def test_redirect_target_is_in_the_servers_log_only() -> None:
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
def test_message_of_each_error_shape(body: object, text: str) -> None:
    assert error_message(json.dumps(body).encode()) == text


@pytest.mark.parametrize("body", [b"<html>", b'{"error": {"mess', b"\xff", b"[" * 100_000, b""])
def test_body_of_another_shape_is_quoted(body: bytes) -> None:
    assert error_message(body) == body.decode(errors="replace")


def test_message_is_redacted_to_one_line() -> None:
    redact = Redactor(KEY)
    assert redact(f"a\r\n\x00{KEY} \ud83d\x1b[31m {KEY}") == "a [key] \ufffd [31m [key]"
    assert redact("x" * 600) == "x" * 499 + "…"
    assert KEY[:4] not in redact("x" * 495 + KEY)  # cut after it was struck out, not before
    assert KEY not in repr(redact)
    assert Redactor(None)("key") == "key"


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
def test_internal_addresses_are_redacted(words: str, shown: str) -> None:
    redact = Redactor(KEY, hosts=["squid.internal", "llm.corp", ""])
    assert redact(words) == shown
    assert redact.for_server_log(f"{words} {KEY}") == f"{words} [key]"
    assert redact.withheld_detail(words) == ("" if words == shown else words)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (b"<html><head><title>502 Bad</title></head><body><p>nginx</p></body></html>", "502 Bad nginx"),
        (b"<!DOCTYPE html><script>var x = '<p>';</script><p>Blocked", "Blocked"),
        (b"<p>one<!-- hidden -->two", "one two"),
        (b"<html><body><", "<html><body><"),
    ],
)
def test_only_visible_text_of_a_web_page_is_quoted(page: bytes, text: str) -> None:
    assert Redactor()(error_message(page)) == text


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
def test_values_that_are_no_error(value: object) -> None:
    assert find_error(value) is None


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
def test_code_of_each_error_object(error: object, whole: bool, code: str, retryable: bool) -> None:
    told = stream_error(error, Redactor(KEY), whole=whole)
    assert (told.code, told.retryable, told.detail) == (code, retryable, "")


def test_redacted_details_are_in_the_servers_log() -> None:
    error = {"error": {"message": f"no answer from 10.0.0.5:8080 with {KEY}"}}
    answers = [refused(502, json.dumps(error).encode()), stream_error(error, Redactor(KEY))]
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
def test_internal_names_of_a_gateway_are_redacted(words: str, shown: str, own: str | None) -> None:
    redact = Redactor(KEY)
    assert (redact(words), redact.for_server_log(words)) == (shown, own or shown)


# Requests without a whole response


UNAVAILABLE, TIMEOUT, MALFORMED, CUT = (
    f"upstream_{name}" for name in ("unavailable", "timeout", "malformed", "cut")
)


@pytest.mark.parametrize(
    ("error", "code", "message", "retryable", "stall"),
    [
        (ConnectError(detail="w"), UNAVAILABLE, "cannot connect to the provider", True, False),
        (CertificateError(detail="w"), UNAVAILABLE, "the provider's certificate is not valid", False, False),
        (ProxyError(None, detail="w"), UNAVAILABLE, "the proxy does not answer as one", True, False),
        (ProxyError(407, detail="w"), UNAVAILABLE, "the proxy answered 407 to CONNECT", False, False),
        (ProxyError(408, detail="w"), UNAVAILABLE, "the proxy answered 408 to CONNECT", True, False),
        (ProxyError(429, detail="w"), UNAVAILABLE, "the proxy answered 429 to CONNECT", True, False),
        (ProxyError(502, detail="w"), UNAVAILABLE, "the proxy answered 502 to CONNECT", True, False),
        (TunnelError(detail="w"), MALFORMED, "the proxy put bytes of its own into the tunnel", False, False),
        (MalformedResponse("sent x"), MALFORMED, "the provider sent x", False, False),
        (ConnectionCut(reset=True, detail="w"), CUT, "the provider broke the connection", True, False),
        (ConnectionCut(reset=False, detail="w"), CUT, "the provider closed the connection too early", True, False),
        (ConnectTimeout(10.0, detail="w"), TIMEOUT, "accepting the connection took over 10 s", True, False),
        (SendTimeout(0.5, detail="w"), TIMEOUT, "the provider: taking the request took over 0.5 s", True, False),
        (ResponseTimeout(9, detail="w"), TIMEOUT, "the provider: beginning to answer took over 9 s", True, True),
        (ReadTimeout(600.0, detail="w"), "upstream_stalled", "the provider sent nothing for 600 s", True, True),
    ],
)
def test_code_and_message_of_each_failed_request(
    error: HttpClientError, code: str, message: str, retryable: bool, stall: bool
) -> None:
    told = request_error(error)
    assert (told.code, told.message, told.retryable, told.stall) == (code, message, retryable, stall)
    assert told.detail == ("" if isinstance(error, MalformedResponse) else "w")
    assert told.retry_after is None


def test_table_covers_every_http_client_error() -> None:
    """Every error class of the HTTP client is in the table above."""
    marks = test_code_and_message_of_each_failed_request.pytestmark  # type: ignore[attr-defined]
    tabled = {type(case[0]) for case in marks[0].args[1]}
    waiting, found = list(HttpClientError.__subclasses__()), set()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found.add(kind)
    assert {kind for kind in found if not kind.__subclasses__()} == tabled
