"""The HTTP/1.1 parser without a socket: request heads and bodies that it accepts and refuses.

Every case is fed in pieces of several sizes. The result must not depend on where the input is cut.
"""

import pytest

from server.http.http1.http1_parser import (
    HEAD_BYTES,
    HEADER_COUNT,
    TARGET_BYTES,
    ChunkedBody,
    HeadParser,
    LengthBody,
    RequestHead,
)
from server.problem import Problem

HOST = b"Host: x\r\n"
PIECES = [1, 2, 3, 7, 10_000]


def parse(raw: bytes, piece: int) -> tuple[RequestHead | None, bytes]:
    """Feeds the bytes in pieces. Returns the request head and the bytes after it."""
    parser = HeadParser()
    for start in range(0, len(raw), piece):
        rest = parser.feed(raw[start : start + piece])
        if parser.head is not None:
            return parser.head, rest + raw[start + piece :]
    return None, b""


def get(line: bytes = b"GET / HTTP/1.1", headers: bytes = HOST) -> bytes:
    """The bytes of a request head."""
    return line + b"\r\n" + headers + b"\r\n"


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("raw", "method", "path", "query", "length"),
    [
        (get(), "GET", b"/", b"", 0),
        (get(b"GET /a/b?c=d?e HTTP/1.1"), "GET", b"/a/b", b"c=d?e", 0),
        (get(b"BREW /pot HTTP/1.1"), "BREW", b"/pot", b"", 0),
        (b"\r\n\r\n" + get(), "GET", b"/", b"", 0),
        (get(b"OPTIONS * HTTP/1.1"), "OPTIONS", b"*", b"", 0),
        (get(b"GET http://h:80/p?q HTTP/1.1"), "GET", b"/p", b"q", 0),
        (get(b"GET http://h?q HTTP/1.1"), "GET", b"/", b"q", 0),
        (get(b"POST / HTTP/1.1", HOST + b"Content-Length: 12\r\n"), "POST", b"/", b"", 12),
        (get(b"POST / HTTP/1.1", HOST + b"Transfer-Encoding: Chunked \r\n"), "POST", b"/", b"", None),
        (get(b"GET / HTTP/1.0", b""), "GET", b"/", b"", 0),
    ],
)
def test_valid_request_head(
    raw: bytes, piece: int, method: str, path: bytes, query: bytes, length: int | None
) -> None:
    """The bytes after the head are returned untouched."""
    head, rest = parse(raw + b"REST", piece)
    assert head is not None
    assert (head.method, head.path, head.query, head.length, rest) == (method, path, query, length, b"REST")


REFUSED = [
    (400, get(b"GET /  HTTP/1.1")),
    (400, get(b"GET  / HTTP/1.1")),
    (400, get(b"GET\t/ HTTP/1.1")),
    (400, get(b"GET / HTTP/1.1 ")),
    (501, get(b"get / HTTP/1.1")),
    (501, get(b"CONNECT a:80 HTTP/1.1")),
    (400, get(b"GET ?x HTTP/1.1")),
    (400, get(b"GET x HTTP/1.1")),
    (400, get(b"GET * HTTP/1.1")),
    (400, get(b"GET /#x HTTP/1.1")),
    (400, get(b"GET /\xff HTTP/1.1")),
    (400, get(b"GET http://[::1 HTTP/1.1")),
    (400, get(b"GET ftp://x/ HTTP/1.1")),
    (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    (400, b"GET / HTTP/1.1\r\nHost: x\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n"),
    (400, get(headers=b"")),
    (400, get(headers=HOST + HOST)),
    (400, get(headers=b"Host: a b\r\n")),
    (400, get(headers=b"Host: [::1\r\n")),
    (400, get(headers=b"Host : x\r\n")),
    (400, get(headers=b" Host: x\r\n")),
    (400, get(headers=HOST + b"A: b\r\n c\r\n")),
    (400, get(headers=HOST + b"A: b\x00\r\n")),
    (400, get(headers=HOST + b"A: b\x7f\r\n")),
    (400, get(headers=HOST + b"no colon\r\n")),
    (400, get(headers=HOST + b": no name\r\n")),
    (417, get(headers=HOST + b"Expect: tea\r\n")),
    (431, get(headers=HOST + b"A: b\r\n" * (HEADER_COUNT + 1))),
    (431, get(headers=HOST + b"A: " + b"b" * HEAD_BYTES + b"\r\n")),
    (414, get(b"GET /" + b"a" * TARGET_BYTES + b" HTTP/1.1")),
    (505, get(b"GET / HTTP/1.2")),
    (505, get(b"GET / HTTP/2.0")),
    (400, b"GET /\r\n\r\n"),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    *(
        (status, get(b"POST / HTTP/1.1", HOST + headers))
        for status, headers in [
            (400, b"Content-Length: +5\r\n"),
            (400, b"Content-Length: -5\r\n"),
            (400, b"Content-Length: 0x5\r\n"),
            (400, b"Content-Length: 5, 5\r\n"),
            (400, b"Content-Length: 5\r\nContent-Length: 5\r\n"),
            (400, b"Content-Length: 99999999999999999999\r\n"),
            (400, b"Content-Length:\r\n"),
            (400, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            (400, b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
            (400, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            (400, b"Transfer-Encoding: xchunked\r\n"),
            (400, b"Transfer-Encoding: \x0bchunked\r\n"),
            (400, b"Transfer-Encoding: chunked, identity\r\n"),
            (501, b"Transfer-Encoding: gzip, chunked\r\n"),
        ]
    ),
    (400, get(b"POST / HTTP/1.0", HOST + b"Transfer-Encoding: chunked\r\n")),
]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(("status", "raw"), REFUSED, ids=lambda value: str(value)[:50])
def test_invalid_request_head_is_refused(status: int, raw: bytes, piece: int) -> None:
    """The parser raises a `Problem` with the right status and a message in words."""
    with pytest.raises(Problem) as caught:
        parse(raw, piece)
    assert caught.value.status == status
    assert len(caught.value.detail) > 20


def test_authority_of_an_absolute_target_replaces_host() -> None:
    """RFC 9112 section 3.2.2. Otherwise a proxy and this server could see two different hosts."""
    head, _ = parse(get(b"GET http://[::1]:8000/p HTTP/1.1", b"A: b\r\nHost: evil.example\r\n"), 10_000)
    assert head is not None
    assert head.headers == [(b"host", b"[::1]:8000"), (b"a", b"b")]


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: keep-alive, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive\r\nConnection: close\r\n", False),
    ],
)
def test_keep_alive_by_version_and_connection_header(version: bytes, connection: bytes, keeps: bool) -> None:
    head, _ = parse(get(b"GET / HTTP/" + version, HOST + connection), 10_000)
    assert head is not None
    assert head.keep_alive is keeps


@pytest.mark.parametrize("piece", PIECES)
def test_body_with_content_length(piece: int) -> None:
    body, raw, got, rest = LengthBody(10), b"0123456789GET", b"", b""
    for start in range(0, len(raw), piece):
        part, behind = body.feed(raw[start : start + piece])
        got, rest = got + part, rest + behind
    assert (got, rest, body.complete) == (b"0123456789", b"GET", True)


CHUNKS = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"00005\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n", b"hello0123456789"),
    (b'5;a=b; c="d e"\r\nhello\r\n0 ;x\r\n\r\n', b"hello"),
    (b"2\r\n\r\n\r\n0\r\nA: b\r\nC:\r\n\r\n", b"\r\n"),
]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(("raw", "expected"), CHUNKS, ids=lambda value: str(value)[:30])
def test_chunked_body(raw: bytes, expected: bytes, piece: int) -> None:
    body, got, rest = ChunkedBody(), b"", b""
    for start in range(0, len(raw + b"GET"), piece):
        part, behind = body.feed((raw + b"GET")[start : start + piece])
        got, rest = got + part, rest + behind
    assert (got, rest, body.complete) == (expected, b"GET", True)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloX\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"1000000000000000\r\n",
        b"5;" + b"a" * 300 + b"\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
    ],
    ids=lambda value: str(value)[:30],
)
def test_malformed_chunked_body_is_refused(raw: bytes, piece: int) -> None:
    body = ChunkedBody()

    def feed() -> None:
        for start in range(0, len(raw), piece):
            body.feed(raw[start : start + piece])

    with pytest.raises(Problem):
        feed()


@pytest.mark.parametrize(
    ("upgrade", "framing", "result"),
    [
        (b"websocket", b"", True),
        (b"websocket", b"Content-Length: 0\r\n", True),
        (b"h2c, WebSocket", b"", True),
        (b"h2c\r\nUpgrade: websocket", b"", True),
        (b"websocket", b"Content-Length: 6\r\n", 400),
        (b"websocket", b"Transfer-Encoding: chunked\r\n", 400),
        (b"h2c, websocket", b"Content-Length: 6\r\n", 400),
        (b"h2c", b"", False),
        (b"h2c", b"Content-Length: 6\r\n", False),
        (b"websockets", b"", False),
    ],
)
def test_websocket_upgrade_must_have_no_body(upgrade: bytes, framing: bytes, result: bool | int) -> None:
    """A body would be read as WebSocket frames. Other upgrades are ignored and the request is answered as it
    is.
    """
    raw = get(headers=HOST + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n" + framing)
    if isinstance(result, bool):
        head, _ = parse(raw, 10_000)
        assert head is not None
        assert head.upgrades is result
    else:
        with pytest.raises(Problem) as caught:
            parse(raw, 10_000)
        assert caught.value.status == result
