"""The parser of HTTP/1.1 responses and the encoder of requests, on bytes alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http_client.base_url import BaseUrl
from server.http_client.http1_codec import MAX_OVERHEAD, ResponseParser, encode_request

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def parse(packets: list[bytes], eof: bool = True) -> tuple[ResponseParser, bytes]:
    parser, body = ResponseParser(), b""
    for packet in packets:
        body += parser.feed(packet)
        if parser.failure or parser.complete:
            break
    if eof:
        parser.feed_eof()
    return parser, body


@pytest.mark.parametrize(
    ("response", "body", "complete_before_eof", "complete"),
    [
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", b"abc", True, True),
        (CHUNKED + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n", b"abcde", True, True),
        (CHUNKED + b"3\r\nabc\r\n", b"abc", False, False),
        (CHUNKED + b"3\r\nab", b"ab", False, False),
        (OK + b"Content-Length: 3\r\n\r\nabc", b"abc", True, True),
        (OK + b"Content-Length: 3\r\n\r\nab", b"ab", False, False),
        (OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabcJUNK", b"abc", True, True),
        (OK + b"Content-Length: 3\r\n\r\nabcJUNK", b"abc", True, True),
        (OK + b"\r\nabc", b"abc", False, True),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc", False, True),
        (OK + b"Transfer-Encoding: gzip\r\n\r\nabc", b"abc", False, True),
        (OK + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nabc", b"abc", False, True),
        (b"HTTP/1.1 204 No\r\n\r\n", b"", True, True),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: 1\r\n\r\n" + OK + b"\r\nabc",
            b"abc",
            False,
            True,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"", False, False),
        (OK + b"X: ", b"", False, False),
        (b"", b"", False, False),
    ],
)
def test_end_of_the_body(response: bytes, body: bytes, complete_before_eof: bool, complete: bool) -> None:
    for packets in ([response], [response[i : i + 1] for i in range(len(response))]):
        parser, got = parse(packets, eof=False)
        assert (got, parser.complete, parser.failure) == (body, complete_before_eof, None)
        parser.feed_eof()
        assert parser.complete is complete
        assert parser.status == (204 if b" 204 " in response else 200 if parser.head_complete else parser.status)


@pytest.mark.parametrize(
    ("response", "reusable"),
    [
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", True),
        (OK + b"Content-Length: 3\r\n\r\nabc", True),
        (OK + b"Content-Length: 3\r\nConnection: keep-alive\r\n\r\nabc", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc", True),
        (b"HTTP/1.1 103 Early\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nabc", True),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", False),
        (OK + b"\r\nabc", False),
        (OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", False),
        (OK + b"Content-Length: 3\r\n\r\nabcJUNK", False),
        (OK + b"Content-Length: 3\r\n\r\nabcH", False),
        (OK + b"Content-Length: 3\r\n\r\nabc" + OK + b"Content-Length: 3\r\n\r\ndef", False),
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + b"HTTP/1.1 404 No\r\n\r\ndef", False),
    ],
)
def test_reusable_responses(response: bytes, reusable: bool) -> None:
    parser = ResponseParser()
    assert not parser.received_any
    assert parser.feed(response) == b"abc"  # and never a byte of what follows it
    parser.feed_eof()
    assert (parser.status, parser.received_any, parser.reusable) == (200, True, reusable)
    assert parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx") == b""
    assert not parser.reusable


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x28", b""),
        (b"SSH-2.0-OpenSSH_9\r\n", b""),
        (b"HTTP/2 200 OK\r\n\r\n", b""),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b""),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", b""),
        (CHUNKED + b"3\r\nabc\r\nZZ\r\n", b"abc"),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc", b""),
        (OK + b"X: " + b"x" * (MAX_OVERHEAD + 1), b""),
        (OK + b"X: y\r\n" * MAX_OVERHEAD, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_OVERHEAD, b""),
        (CHUNKED + b"3\r\nabc\r\n", b"abc"),
    ],
)
def test_malformed_response_keeps_the_body_before_it(response: bytes, body: bytes) -> None:
    packets = [response[i : i + 1000] for i in range(0, len(response), 1000)]
    if body and b"ZZ" not in response:
        packets += [b"0\r\n", *([b"X: yyyyyyyyyy\r\n" * 1000] * 6)]  # trailers without end
    parser, got = parse(packets)
    assert got == body
    assert parser.failure is not None


def test_headers_are_lower_case_joined_and_final() -> None:
    parser, _ = parse([b"HTTP/1.1 103 Early\r\nA: 0\r\n\r\n" + OK + b"Warning: 1\r\nWARNING: \xe9\r\n\r\n"])
    assert parser.headers == {"warning": "1, é"}


@pytest.mark.parametrize(("size", "refused"), [(MAX_OVERHEAD, False), (MAX_OVERHEAD + 1, True)])
def test_largest_head(size: int, refused: bool) -> None:
    """Counted is all that came without a byte of body, the blank line of the head among it."""
    head = OK + b"Content-Length: 3\r\nX: "
    parser = ResponseParser()
    parser.feed(head + b"x" * (size - len(head) - 4) + b"\r\n\r\n")
    assert (parser.failure is not None) is refused


def test_chunk_overhead_is_bounded() -> None:
    parser = ResponseParser()
    parser.feed(CHUNKED)
    for _ in range(MAX_OVERHEAD):
        parser.feed(b"1\r\n")
        assert parser.feed(b"x\r\n") == b"x"
    assert parser.failure is None


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.lists(st.integers(0, 1_000), max_size=20))
def test_any_cut_gives_the_same_body(chunks: list[bytes], cuts: list[int]) -> None:
    response = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    marks = [0, *sorted(cut % (len(response) + 1) for cut in cuts), len(response)]
    parser, body = parse([response[a:b] for a, b in pairwise(marks)])
    assert (body, parser.complete) == (b"".join(chunks), True)


@pytest.mark.parametrize("keep", [True, False])
def test_request(keep: bool) -> None:
    address = BaseUrl(False, "::1", 8080, "/v1")
    request = encode_request(address, "/x", {"Authorization": "Bearer k"}, b"{}", keep_alive=keep)
    proxied = encode_request(address, "/x", {}, b"{}", proxied=True)
    assert proxied.startswith(b"POST http://[::1]:8080/v1/x HTTP/1.1\r\nHost: [::1]:8080\r\n")
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == b"{}"
    assert head.decode().split("\r\n") == [
        "POST /v1/x HTTP/1.1",
        "Host: [::1]:8080",
        "User-Agent: tokentape",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        "Content-Length: 2",
        "Connection: keep-alive" if keep else "Connection: close",
        "Authorization: Bearer k",
    ]


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"", b"0"), ("POST", b"{}", b"2"), ("GET", b"", None), ("GET", b"{}", b"2")],
)
def test_request_has_a_content_length(method: str, body: bytes, length: bytes | None) -> None:
    """A POST without a body says so, or a server may wait for one (RFC 9110 section 8.6)."""
    url = BaseUrl(False, "localhost", 8080, "/v1")
    head = encode_request(url, "/x", {}, body, method=method).split(b"\r\n")
    said = [line for line in head if line.lower().startswith(b"content-length:")]
    assert said == ([] if length is None else [b"Content-Length: " + length])
