"""Request smuggling (RFC 9112 section 11.2): requests whose end two parsers could see in different places.

Each row is a request with another one hidden in it. A server that finds the hidden request answers twice; behind
a proxy that found none, the second response goes to another client. The tables say what the RFC demands:

- `REFUSED`: 400 (501 for an unknown transfer coding) and the connection is closed, because the bytes that follow
might be anything. Where the RFC leaves the choice, this server is strict.
- `ONE`: there is only one way to read the request; it is answered, and what looks hidden is its body.
- `TWO`: both are plain requests for every parser that accepts the first one at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import trio

from tests.clients.http1 import Connection
from tests.transports.problem_checks import check_problem

from .server_probe import Probe
from .tcp_peer import Peer

HIDDEN = b"GET /v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""Its 404 would give away that the server found the hidden request."""
JSON = b"Content-Type: application/json\r\n"
SECONDS = 10.0


@dataclass(frozen=True)
class Case:
    """One row. `head` is everything between the request line and the empty line; `body` follows it."""

    name: str
    head: bytes
    body: bytes = HIDDEN
    line: bytes = b"POST /v1/conversations HTTP/1.1"
    statuses: tuple[int, ...] = (400,)
    host: bytes = b"Host: localhost\r\n"

    def __str__(self) -> str:
        return self.name

    @property
    def sent(self) -> bytes:
        """All bytes of the request."""
        return self.line + b"\r\n" + self.host + JSON + self.head + b"\r\n" + self.body


def chunk(data: bytes, size: bytes | None = None) -> bytes:
    """A chunk; `size` replaces the correct size line."""
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + b"\r\n"


def chunked(name: str, body: bytes, head: bytes = b"Transfer-Encoding: chunked\r\n") -> Case:
    """A request with an invalid chunked body and the hidden request after it."""
    return Case(name, head, body + HIDDEN)


LAST = b"0\r\n\r\n"
OK = chunk(b"{}") + LAST
CHUNKED = b"Transfer-Encoding: chunked\r\n"

LENGTHS = [
    # RFC 9112 section 6.3 rule 3: "ought to be handled as an error"; a server that goes on must close. We refuse.
    Case("Content-Length, then chunked", b"Content-Length: 5\r\n" + CHUNKED, LAST + HIDDEN),
    Case("chunked, then Content-Length", CHUNKED + b"Content-Length: 5\r\n", LAST + HIDDEN),
    Case(
        "Content-Length of the whole, and chunked",
        CHUNKED + b"Content-Length: %d\r\n" % (5 + len(HIDDEN)),
        LAST + HIDDEN,
    ),
    # RFC 9112 section 6.3 rule 5, RFC 9110 section 8.6: 400; one repeated value may be taken as one.
    Case("two unequal lengths", b"Content-Length: 2\r\nContent-Length: 50\r\n", b"{}" + HIDDEN),
    Case(
        "two unequal lengths, the other way round", b"Content-Length: 50\r\nContent-Length: 2\r\n", b"{}" + HIDDEN
    ),
    Case("a list of unequal lengths", b"Content-Length: 2, 50\r\n", b"{}" + HIDDEN),
    Case("an empty element in the list", b"Content-Length: 2,\r\n", b"{}" + HIDDEN),
    # Content-Length = 1*DIGIT (RFC 9110 section 8.6)
    Case("a sign", b"Content-Length: +2\r\n", b"{}" + HIDDEN),
    Case("a negative length", b"Content-Length: -2\r\n", b"{}" + HIDDEN),
    Case("a length in hex", b"Content-Length: 0x2\r\n", b"{}" + HIDDEN),
    Case("a length with a point", b"Content-Length: 2.0\r\n", b"{}" + HIDDEN),
    Case("a length with a blank in it", b"Content-Length: 2 0\r\n", b"{}" + HIDDEN),
    Case("a length with an underscore", b"Content-Length: 2_0\r\n", b"{}" + HIDDEN),
    Case("a length in other digits", "Content-Length: ２\r\n".encode(), b"{}" + HIDDEN),
    Case("an empty length", b"Content-Length: \r\n", HIDDEN),
    Case("a word for a length", b"Content-Length: two\r\n", b"{}" + HIDDEN),
    Case(
        "a length above 64 bits", b"Content-Length: 18446744073709551618\r\n", b"{}" + HIDDEN, statuses=(400, 413)
    ),
    Case(
        "a length of 400 digits", b"Content-Length: " + b"9" * 400 + b"\r\n", b"{}" + HIDDEN, statuses=(400, 413)
    ),
    # A length that is huge but a number: too large, and never read.
    Case("a length of petabytes", b"Content-Length: 1000000000000000\r\n", HIDDEN, statuses=(413,)),
]
CODINGS = [
    # RFC 9112 section 6.1: chunked has to be last (else 400), and an unknown coding is 501.
    Case("a coding like chunked", b"Transfer-Encoding: xchunked\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("a coding that is cut", b"Transfer-Encoding: chunke\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("identity", b"Transfer-Encoding: identity\r\n", HIDDEN, statuses=(400, 501)),
    Case(
        "identity with a length",
        b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n",
        b"{}" + HIDDEN,
        statuses=(400, 501),
    ),
    Case("chunked twice in a list", b"Transfer-Encoding: chunked, chunked\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("chunked twice", CHUNKED + CHUNKED, OK + HIDDEN, statuses=(400, 501)),
    Case("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("chunked, gzip", b"Transfer-Encoding: chunked, gzip\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case(
        "chunked, then identity in its own line",
        CHUNKED + b"Transfer-Encoding: identity\r\n",
        OK + HIDDEN,
        statuses=(400, 501),
    ),
    Case("an empty coding", b"Transfer-Encoding: \r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("chunked with a parameter", b"Transfer-Encoding: chunked;q=1\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("chunked in quotes", b'Transfer-Encoding: "chunked"\r\n', OK + HIDDEN, statuses=(400, 501)),
    Case("chunked behind a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n", OK + HIDDEN, statuses=(400, 501)),
    Case("chunked with U+00A0 in front", b"Transfer-Encoding: \xa0chunked\r\n", OK + HIDDEN, statuses=(400, 501)),
    # RFC 9112 section 6.1: HTTP/1.0 has no transfer codings; such a message has faulty framing.
    Case("chunked in HTTP/1.0", CHUNKED, OK + HIDDEN, line=b"POST /v1/conversations HTTP/1.0"),
    Case(
        "chunked and keep-alive in HTTP/1.0",
        CHUNKED + b"Connection: keep-alive\r\n",
        OK + HIDDEN,
        line=b"POST /v1/conversations HTTP/1.0",
    ),
]
CHUNKS = [
    # chunk-size = 1*HEXDIG, then an extension or CRLF (RFC 9112 section 7.1)
    chunked("a size with 0x", chunk(b"{}", b"0x2") + LAST),
    chunked("a size with a blank behind", chunk(b"{}", b"2 ") + LAST),
    chunked("a size with a blank in front", chunk(b"{}", b" 2") + LAST),
    chunked("a size with a tab behind", chunk(b"{}", b"2\t") + LAST),
    chunked("a size with a sign", chunk(b"{}", b"+2") + LAST),
    chunked("a negative size", chunk(b"{}", b"-2") + LAST),
    chunked("an empty size", chunk(b"{}", b"") + LAST),
    chunked("a size that is no number", chunk(b"{}", b"zz") + LAST),
    chunked("a size with an underscore", chunk(b"{}", b"0_2") + LAST),
    chunked("a size above 64 bits", chunk(b"{}", b"10000000000000002") + LAST),
    chunked("a size of 400 digits", chunk(b"{}", b"0" * 399 + b"2") + b"f" * 400 + b"\r\n" + LAST),
    chunked("no line end behind the data", b"2\r\n{}" + LAST),
    chunked("data longer than the size", b"2\r\n{} \r\n" + LAST),
    chunked("a bare LF behind the size", b"2\n{}\r\n" + LAST),
    chunked("a bare LF behind the data", b"2\r\n{}\n" + LAST),
    chunked("a bare LF behind the last chunk", b"2\r\n{}\r\n0\n\n"),
    chunked("a bare CR behind the size", b"2\r{}\r\n" + LAST),
    chunked("a bare LF in an extension", b"2;a\nb\r\n{}\r\n" + LAST),
    chunked("a bare CR in an extension", b"2;a\rb\r\n{}\r\n" + LAST),
    chunked("a NUL in an extension", b"2;a\x00b\r\n{}\r\n" + LAST),
    chunked("a trailer that is folded", chunk(b"{}") + b"0\r\nX: a\r\n b\r\n\r\n"),
    chunked("a trailer without a colon", chunk(b"{}") + b"0\r\nX\r\n\r\n"),
    chunked("a trailer with a blank before its colon", chunk(b"{}") + b"0\r\nX : a\r\n\r\n"),
    chunked("a trailer with a bare LF", chunk(b"{}") + b"0\r\nX: a\n\r\n"),
]
PLAIN = b"GET /healthz HTTP/1.1"


def get(name: str, head: bytes, **more: object) -> Case:
    """A GET request with these lines in its head."""
    return Case(name, head, line=more.pop("line", PLAIN), **more)  # type: ignore[arg-type]


HEADS = [
    # RFC 9112 section 5.1: no blank between a name and its colon
    get("a blank before the colon", b"Content-Length : 50\r\n"),
    get("a tab before the colon", b"Content-Length\t: 50\r\n"),
    get("a blank before the colon of the coding", b"Transfer-Encoding : chunked\r\n"),
    # RFC 9112 section 5.2: a folded line is refused, or its fold becomes blanks. We refuse.
    get("a folded line", b"X: a\r\n b\r\n"),
    get("a line folded with a tab", b"X: a\r\n\tb\r\n"),
    get("a folded coding", b"Transfer-Encoding:\r\n chunked\r\n"),
    get("a folded first line", b"", host=b" Host: localhost\r\n"),
    # RFC 9112 section 2.2: a bare CR is invalid or a blank; a bare LF a recipient MAY take. We refuse both.
    get("a bare LF behind a line", b"X: a\nY: b\r\n"),
    get("a bare LF hiding a length", b"X: a\nContent-Length: 50\r\n"),
    get("a bare CR in a value", b"X: a\rContent-Length: 50\r\n"),
    get("a bare CR in a name", b"X\rY: a\r\n"),
    get("a bare LF ends the head", b"X: a\r\n\n"),
    get("CR CR LF", b"X: a\r\r\n"),
    # RFC 9110 sections 5.1 and 5.5
    get("NUL in a value", b"X: a\x00b\r\n"),
    get("NUL in a name", b"X\x00Y: a\r\n"),
    get("NUL in the length's name", b"Content-Length\x00: 50\r\n"),
    get("a blank in a name", b"X Y: a\r\n"),
    get("a name that is empty", b": a\r\n"),
    get("a name with a bracket", b"X(Y): a\r\n"),
    get("a name with bytes above 127", b"X\xe9: a\r\n"),
    get("a control byte in a value", b"X: a\x01b\r\n"),
    get("DEL in a value", b"X: a\x7fb\r\n"),
    get("a line without a colon", b"X\r\n"),
    # RFC 9112 section 3: one blank between the parts
    get("two blanks behind the method", b"", line=b"GET  /healthz HTTP/1.1"),
    get("two blanks behind the target", b"", line=b"GET /healthz  HTTP/1.1"),
    get("a tab behind the method", b"", line=b"GET\t/healthz HTTP/1.1"),
    get("a tab behind the target", b"", line=b"GET /healthz\tHTTP/1.1"),
    get("a blank in the target", b"", line=b"GET /health z HTTP/1.1"),
    get("a blank behind the version", b"", line=b"GET /healthz HTTP/1.1 "),
    get("a blank in front", b"", line=b" GET /healthz HTTP/1.1"),
    get("a bare CR in the line", b"", line=b"GET /healthz\rHTTP/1.1"),
    get("a bare LF behind the line", b"", line=b"GET /healthz HTTP/1.1\nX: a"),
    get("NUL in the target", b"", line=b"GET /health\x00z HTTP/1.1"),
    get("a control byte in the target", b"", line=b"GET /health\x01z HTTP/1.1"),
    get("no version", b"", line=b"GET /healthz"),
    get("a version in small letters", b"", line=b"GET /healthz http/1.1"),
    get("a version of one part", b"", line=b"GET /healthz HTTP/1"),
    get("a version with a sign", b"", line=b"GET /healthz HTTP/+1.1"),
    get("a version that is long", b"", line=b"GET /healthz HTTP/1.10"),
    get("a version that is not known", b"", line=b"GET /healthz HTTP/9.9", statuses=(400, 505)),
    get("HTTP/2.0 without its preface", b"", line=b"GET /healthz HTTP/2.0", statuses=(400, 505)),
    get("a method that is no token", b"", line=b"G@T /healthz HTTP/1.1"),
    get("a method that is empty", b"", line=b"/healthz HTTP/1.1"),
]
REFUSED = [*LENGTHS, *CODINGS, *CHUNKS, *HEADS]


async def responses(peer: Peer) -> list[bytes]:
    """All responses until the server closes the connection, split before each status line."""
    received = await peer.read_all(SECONDS)
    return re.split(rb"(?=HTTP/1\.[01] \d{3} )", received)[1:]


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_ambiguous_request_is_refused_and_the_connection_closed(probe: Probe, case: Case) -> None:
    """Exactly one readable refusal; the hidden request is never answered."""
    async with await Peer.open(probe.port) as peer:
        await peer.send(case.sent)
        answers = await responses(peer)
    assert len(answers) == 1, answers
    head, _, body = answers[0].partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    status = int(status_line.split()[1])
    assert status in case.statuses, answers
    assert headers.get("connection") == "close"
    check_problem(status, headers, body)


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_ambiguous_request_cut_anywhere_is_refused(probe: Probe, case: Case) -> None:
    """The request arrives in two parts, so that the parser must keep its state in between."""
    cuts = range(1, len(case.sent), 7)

    async def cut(at: int) -> None:
        async with limiter, await Peer.open(probe.port) as peer:
            await peer.send(case.sent[:at])
            await trio.lowlevel.checkpoint()
            await peer.send(case.sent[at:])
            answers = await responses(peer)
        found.append([int(answer.split(b" ", 2)[1]) for answer in answers])

    found: list[list[int]] = []
    limiter = trio.CapacityLimiter(8)
    async with trio.open_nursery() as nursery:
        for at in cuts:
            nursery.start_soon(cut, at)
    assert all(len(statuses) == 1 and statuses[0] in case.statuses for statuses in found), found


FINAL = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Sent after a row that is answered: its response is the last one, which marks the end of all responses."""
SIZED = b"Content-Length: %d\r\n" % len(HIDDEN)
LARGE = 3_000_000
ONE = [
    # What is sent as a body is a body, whatever becomes of the request (RFC 9112 section 9.3).
    Case("a body that looks like a request", SIZED),
    Case("the same in a chunk", CHUNKED, chunk(HIDDEN) + LAST),
    Case(
        "the same in chunks of a byte",
        CHUNKED,
        b"".join(chunk(HIDDEN[at : at + 1]) for at in range(len(HIDDEN))) + LAST,
    ),
    Case("a body that nobody reads", SIZED, line=b"POST /nope HTTP/1.1", statuses=(404,)),
    Case("a body of a method that is not allowed", SIZED, line=b"DELETE /healthz HTTP/1.1", statuses=(405,)),
    Case("a body for a foreign name", SIZED, host=b"Host: evil.example\r\n", statuses=(403, 421)),
    Case("a body of another type", SIZED + b"Content-Type: text/plain\r\n", statuses=(400, 415)),
    Case(
        "a body that was to be asked for",
        SIZED + b"Expect: 100-continue\r\n",
        line=b"POST /nope HTTP/1.1",
        statuses=(404,),
    ),
    # RFC 9110 section 9.3.1: a GET may have one, which means nothing.
    get("a body of a GET", SIZED, statuses=(200, 400)),
    get("a chunked body of a GET", CHUNKED, body=chunk(HIDDEN) + LAST, statuses=(200, 400)),
    get("a body of a HEAD", SIZED, line=b"HEAD /healthz HTTP/1.1", statuses=(200, 400)),
    get(
        "a body of an event stream's address",
        SIZED,
        line=b"GET /v1/conversations/nobody/events HTTP/1.1",
        statuses=(404,),
    ),
    # Too large to be read: nothing behind its start is a request, and the connection is closed.
    Case(
        "a body that is too large",
        b"Content-Length: %d\r\n" % LARGE,
        HIDDEN + bytes(LARGE - len(HIDDEN)),
        statuses=(413,),
    ),
    Case(
        "a chunk that is too large",
        CHUNKED,
        b"%x\r\n" % LARGE + HIDDEN + bytes(LARGE - len(HIDDEN)) + b"\r\n" + LAST,
        statuses=(413,),
    ),
    # RFC 9112 section 9.6: nothing behind a request that says close is one.
    get("behind Connection: close", b"Connection: close\r\n", statuses=(200,)),
    get("behind Connection: Close among others", b"Connection: x, Close\r\n", statuses=(200,)),
    get("behind HTTP/1.0", b"", line=b"GET /healthz HTTP/1.0", statuses=(200,)),
]
MUST, MAY = "has to be read", "may be refused"
TWO = [
    (MUST, Case("blanks around a length", b"Content-Length:  \t2 \t\r\n", b"{}" + HIDDEN, statuses=(201,))),
    (MUST, Case("a length with zeros in front", b"Content-Length: 002\r\n", b"{}" + HIDDEN, statuses=(201,))),
    (MUST, Case("a length of nothing", b"Content-Length: 0\r\n", HIDDEN, statuses=(201,))),
    (MUST, Case("neither length nor coding", b"", HIDDEN, statuses=(201,))),
    (
        MAY,
        Case("one length twice", b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}" + HIDDEN, statuses=(201,)),
    ),
    (MAY, Case("one length twice in a list", b"Content-Length: 2, 2\r\n", b"{}" + HIDDEN, statuses=(201,))),
    (MUST, Case("the coding in large letters", b"TRANSFER-ENCODING: CHUNKED\r\n", OK + HIDDEN, statuses=(201,))),
    (
        MAY,
        Case(
            "the coding with an empty element", b"Transfer-Encoding: , chunked\r\n", OK + HIDDEN, statuses=(201,)
        ),
    ),
    (
        MUST,
        Case(
            "names that only look like it",
            b"Transfer_Encoding: chunked\r\nContent_Length: 50\r\n",
            HIDDEN,
            statuses=(201,),
        ),
    ),
    (
        MUST,
        Case("sizes in large letters", CHUNKED, chunk(b"{}" + b" " * 8, b"A") + LAST + HIDDEN, statuses=(201,)),
    ),
    (
        MUST,
        Case(
            "sizes with zeros in front", CHUNKED, chunk(b"{}", b"0002") + b"000\r\n\r\n" + HIDDEN, statuses=(201,)
        ),
    ),
    (MUST, Case("an extension", CHUNKED, chunk(b"{}", b"2;a=b") + b"0;c\r\n\r\n" + HIDDEN, statuses=(201,))),
    (MUST, Case("an extension in quotes", CHUNKED, chunk(b"{}", b'2;a="b;c"') + LAST + HIDDEN, statuses=(201,))),
    (MAY, Case("an extension with blanks", CHUNKED, chunk(b"{}", b"2 ; a = b") + LAST + HIDDEN, statuses=(201,))),
    (MUST, Case("a trailer", CHUNKED, chunk(b"{}") + b"0\r\nX: y\r\n\r\n" + HIDDEN, statuses=(201,))),
    # RFC 9110 section 6.5.1: a trailer is no header, least of all one of framing.
    (
        MAY,
        Case(
            "a length in a trailer", CHUNKED, chunk(b"{}") + b"0\r\n" + SIZED + b"\r\n" + HIDDEN, statuses=(201,)
        ),
    ),
    (
        MAY,
        Case(
            "a coding in a trailer", CHUNKED, chunk(b"{}") + b"0\r\n" + CHUNKED + b"\r\n" + HIDDEN, statuses=(201,)
        ),
    ),
    # RFC 9112 section 2.2: at least one empty line in front is to be passed over.
    (MUST, get("an empty line in front", b"", line=b"\r\n" + PLAIN, statuses=(200,))),
    (MAY, get("ten empty lines in front", b"", line=b"\r\n" * 10 + PLAIN, statuses=(200,))),
    # RFC 9110 section 9.1: methods are in large letters, and `get` is another one.
    (MAY, get("a method in small letters", b"", line=b"get /healthz HTTP/1.1", statuses=(405, 501))),
    (MAY, get("a method that nobody knows", b"", line=b"BREW /healthz HTTP/1.1", statuses=(405, 501))),
    (MAY, get("CONNECT", b"", line=b"CONNECT localhost:80 HTTP/1.1", statuses=(405, 501))),
    (MUST, get("an upgrade that is not heeded", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", statuses=(200,))),
    (MUST, get("a header that is empty", b"X:\r\n", statuses=(200,))),
    (MUST, get("bytes above 127 in a value", b"X: \xe9\xff\r\n", statuses=(200,))),
    (MUST, get("a tab in a value", b"X: a\tb\r\n", statuses=(200,))),
]


def statuses(answers: list[bytes]) -> list[int]:
    """Status codes of the final responses, without 1xx."""
    found = [int(answer.split(b" ", 2)[1]) for answer in answers]
    return [status for status in found if status >= 200]


@pytest.mark.parametrize("case", ONE, ids=str)
async def test_request_inside_a_body_is_not_answered(probe: Probe, case: Case) -> None:
    """The outer request gets its one response; then the connection goes on after the body, or is closed."""
    async with await Peer.open(probe.port) as peer:
        await peer.send(case.sent + FINAL)
        first, *rest = statuses(await responses(peer))
    assert first in case.statuses
    assert rest in ([], [200])


@pytest.mark.parametrize(("demand", "case"), TWO, ids=str)
async def test_two_unambiguous_requests_are_both_answered(probe: Probe, demand: str, case: Case) -> None:
    """In order. A refusal is accepted where the RFC allows one."""
    async with await Peer.open(probe.port) as peer:
        await peer.send(case.sent + FINAL)
        found = statuses(await responses(peer))
    if demand == MAY and len(found) == 1:
        assert found[0] in (400, 501)
    else:
        assert len(found) == 3
        assert found[0] in case.statuses
        assert found[1:] == [404, 200]


async def test_server_still_answers_and_logged_no_traceback(probe: Probe) -> None:
    async with await Connection.open(probe.port) as connection:
        assert (await connection.ask("GET", "/healthz")).status == 200
    assert "Traceback" not in probe.server.logged()
