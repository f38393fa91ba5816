"""An incremental parser of HTTP/1.1 requests (RFC 9112): the head by llhttp, the body by its length or its chunks.

Owns every rule for a request's head, which HTTP/2 uses as well. Whatever proxies and servers are known to read
differently (request smuggling) is refused: each such rule is here, and none of llhttp's leniencies is switched on.
Pure: bytes in, requests or a `Problem` out. It must not know sockets or the app.
"""

import re
from dataclasses import dataclass

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from server.http.asgi import Headers
from server.problem import Problem

HEAD_BYTES = 32_768
TARGET_BYTES = 8_192
HEADER_COUNT = 100
LINE_BYTES = 256
TRAILER_BYTES = 8_192
LENGTH_DIGITS = 18

_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]+")  # visible ASCII; `#` begins a fragment, which is never sent
_ABSOLUTE = re.compile(
    rb"https?://((?:\[[0-9a-f:.]+\]|[a-z0-9._~%!$&'()*+,;=-]+)(?::[0-9]{0,5})?)([/?].*)?",
    re.IGNORECASE | re.DOTALL,
)
_HOST = re.compile(rb"(?:\[[0-9a-f:.]+\]|[a-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?", re.IGNORECASE)
_METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ")
_METHOD_BEGUN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,32}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(slots=True)
class RequestHead:
    """A request's head that has passed every rule. Header names are lower case.

    `length`: how many bytes the body has; None if it comes in chunks. `path` is `*` for `OPTIONS *`. `upgrades`:
    the client asks to open a WebSocket.
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: Headers
    keep_alive: bool
    length: int | None
    expects_continue: bool
    upgrades: bool


def bad(detail: str, status: int = 400, code: str = "bad_request") -> Problem:
    """The problem of a request that cannot be parsed. Its client is to blame."""
    return Problem(status, code, detail)


class HeadParser:
    """Parses one head as its bytes come. `head` is None until it is whole."""

    __slots__ = ("_complete", "_headers", "_line", "_method", "_parser", "_size", "_tail", "_target", "head")

    def __init__(self) -> None:
        self.head: RequestHead | None = None
        self._headers: Headers = []
        self._target = b""
        self._size = 0
        self._method = ""
        self._line = b""  # the request line, as far as it has come
        self._tail = b""  # the last three bytes so far: the empty line may be split over packets
        self._complete = False
        self._parser = HttpRequestParser(self)

    @property
    def begun(self) -> bool:
        """Whether anything but empty lines has come."""
        return bool(self._method or self._line)

    def on_url(self, part: bytes) -> None:
        """llhttp has parsed a piece of the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp has parsed a header."""
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """llhttp has parsed the empty line."""
        self._complete = True

    def feed(self, data: bytes) -> bytes:
        """Parses bytes up to the end of the head; returns the bytes after it.

        Raises `Problem` 400, 414, 417, 431, 501, 505.
        """
        if not self._method:
            data = self._take_method(data)
            if not data:
                return b""
        # llhttp gets no byte behind the empty line: this parser reads bodies itself.
        end = (self._tail + data).find(b"\r\n\r\n") + 4 - len(self._tail)
        found = end > 3 - len(self._tail)
        part, rest = (data[:end], data[end:]) if found else (data, b"")
        self._size += len(part)
        if not self._line.endswith(b"\r\n"):
            self._line += part
            self._line = self._line[: self._line.find(b"\n") + 1] or self._line
        try:
            self._parser.feed_data(part)
        except HttpParserUpgrade:
            pass  # a request to upgrade; `check_head` decides about it
        except HttpParserError as error:
            raise self._refusal(error) from None
        check_size(len(self._target), len(self._headers), self._size)
        if self._complete:
            version = self._parser.get_http_version()
            if self._line != b"GET %b HTTP/%b\r\n" % (self._target, version.encode()):
                raise bad("The request's first line is malformed: it has one space between its parts.")
            self.head = check_head(self._method, self._target, version, self._headers)
        elif found:
            raise bad("The request's head ends before it is whole.")
        else:
            self._tail = (self._tail + data)[-3:]
        return rest

    def _take_method(self, data: bytes) -> bytes:
        """Reads the method and puts GET in its place, for llhttp. Returns nothing until the method is whole.

        llhttp refuses methods that it does not know. But the app decides which methods a target has (405).
        """
        # RFC 9112 section 2.2: some clients send an empty line after a body.
        self._line += data if self._line else data.lstrip(b"\r\n")
        found = _METHOD.match(self._line)
        if found is None:
            if _METHOD_BEGUN.fullmatch(self._line):
                return b""
            raise bad("The request's head is malformed: it does not begin with a method and a space.")
        self._method = found[1].decode()
        check_method(self._method)
        rest = self._line[len(self._method) :]
        self._line = b""
        return b"GET" + rest

    def _refusal(self, error: HttpParserError) -> Problem:
        if isinstance(error, HttpParserInvalidURLError):
            return _bad_target()
        if isinstance(error, HttpParserCallbackError):
            return bad("The request's head is malformed.")
        if "HTTP version" in str(error):
            return bad("This port speaks HTTP/1.1 and HTTP/2.", 505, "version_unknown")
        return bad(f"The request's head is malformed: {error}.")


def _bad_target() -> Problem:
    return bad(
        "The request's target is none: it begins with a slash, and holds visible ASCII characters only.",
        code="bad_target",
    )


def check_method(method: str) -> None:
    """Checks a method, of HTTP/1.1 or HTTP/2. Raises `Problem` 400, 501."""
    if not method or not _METHOD_BEGUN.fullmatch(method.encode()):
        raise bad("The request's method is none: it is a word of at most 32 characters.")
    if method == "CONNECT":
        raise bad("This server is no proxy.", 501, "method_unknown")
    if method != method.upper():  # methods are case-sensitive, but many apps take `get` for `GET`
        raise bad("This method is not known here: methods are in large letters.", 501, "method_unknown")


def check_size(target: int, headers: int, size: int) -> None:
    """Checks a head's limits: bytes of its target, number of headers, bytes in all. Raises `Problem` 414, 431."""
    if target > TARGET_BYTES:
        raise bad(f"The request's target is longer than {TARGET_BYTES} bytes.", 414, "target_too_long")
    if headers > HEADER_COUNT or size > HEAD_BYTES:
        limits = f"{HEAD_BYTES} bytes and {HEADER_COUNT} headers"
        raise bad(f"The request's head is larger than {limits}.", 431, "head_too_large")


def check_head(method: str, target: bytes, version: str, headers: Headers) -> RequestHead:
    """Checks every rule for a head that is well-formed. Raises `Problem` 400, 417, 501, 505.

    If the target names the host, `headers` are changed accordingly (RFC 9112 section 3.2.2). For HTTP/2 (`version`
    "2") `headers` hold no pseudo-headers, and `length` may be None: a body ends with its stream there.
    """
    if version not in ("1.1", "1.0", "2"):
        raise bad("This port speaks HTTP/1.1 and HTTP/2.", 505, "version_unknown")
    host = length = coding = None
    keep_alive = version == "1.1"
    closes = upgrades = expects = False
    upgrade: list[bytes] = []
    for name, value in headers:
        if _BAD_VALUE.search(value):
            raise bad(f"The header {name.decode('latin-1')} holds a control character.")
        if name == b"host":
            if host is not None:
                raise bad("The request has two Host headers.")
            if not _HOST.fullmatch(value):
                raise bad("The Host header is none: it is a name or an address, and may be a port behind it.")
            host = value
        elif name == b"connection":
            tokens = [token.strip().lower() for token in value.split(b",")]
            closes = closes or b"close" in tokens
            upgrades = upgrades or b"upgrade" in tokens
            keep_alive = keep_alive or b"keep-alive" in tokens
        elif name == b"content-length":
            if length is not None:
                raise bad("The request has two Content-Length headers.")
            if not value.isdigit() or len(value) > LENGTH_DIGITS:
                raise bad("Content-Length has to be a number of bytes.")
            length = int(value)
        elif name == b"transfer-encoding":
            if coding is not None:
                raise bad("The request has two Transfer-Encoding headers.")
            coding = value.lower()
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise bad("Expect may be 100-continue, and nothing else.", 417, "expectation_failed")
            expects = version != "1.0"
        elif name == b"upgrade":
            upgrade += [protocol.strip().lower() for protocol in value.split(b",")]
    if coding is not None:
        if length is not None or version == "1.0":
            raise bad("A request has Content-Length, or from HTTP/1.1 on Transfer-Encoding; never both.")
        if coding != b"chunked":
            raise bad("Transfer-Encoding may be chunked, and nothing else.", 501, "coding_unknown")
    if host is None and version != "1.0":
        raise bad("The request has no Host header, which HTTP/1.1 asks for.", code="host_missing")
    if version == "2" and target[:1] != b"/" and target != b"*":  # RFC 9113 section 8.3.1
        raise _bad_target()
    upgrades = upgrades and b"websocket" in upgrade and method == "GET" and version == "1.1"
    if upgrades and (length or coding is not None):  # RFC 9110 section 7.8: the frames would begin after the body
        raise bad("A request to open a WebSocket has no body here: what follows it is frames.")
    path, query = _split_target(method, target, headers)
    return RequestHead(
        method=method,
        path=path,
        query=query,
        version=version,
        headers=headers,
        keep_alive=keep_alive and not closes,
        length=length if coding or version == "2" else length or 0,
        expects_continue=expects,
        upgrades=upgrades,
    )


def _split_target(method: str, target: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """Returns path and query of a target (RFC 9112 section 3.2)."""
    if not _TARGET.fullmatch(target):
        raise _bad_target()
    if target[0] != 47:  # a slash
        if target == b"*" and method == "OPTIONS":
            return target, b""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise _bad_target()
        headers[:] = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
        target = absolute[2] or b"/"
        if target[0] != 47:
            target = b"/" + target
    path, _, query = target.partition(b"?")
    return path, query


class LengthBody:
    """A body of known length. `left`: how many of its bytes have not come yet."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = length

    @property
    def complete(self) -> bool:
        """Whether the whole body has come."""
        return self.left == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes bytes; returns those of the body, and those after it."""
        part = data[: self.left]
        self.left -= len(part)
        return part, data[len(part) :]


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1). Chunk extensions and trailers are checked and dropped."""

    __slots__ = ("_left", "_line", "_state", "_trailer", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._state = "size"
        self._left = 0
        self._line = b""
        self._trailer = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes bytes; returns those of the body, and those after it. Raises `Problem` 400, 431."""
        body: list[bytes] = []
        at = 0
        while at < len(data) and not self.complete:
            if self._state == "data":
                part = data[at : at + self._left]
                body.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = "end"
                continue
            end = data.find(b"\n", at)
            self._line += data[at:] if end < 0 else data[at : end + 1]
            at = len(data) if end < 0 else end + 1
            if len(self._line) > (TRAILER_BYTES if self._state == "trailer" else LINE_BYTES):
                raise bad("The body's chunks are malformed: a line of them is too long.")
            if end >= 0:
                line, self._line = self._line, b""
                if not line.endswith(b"\r\n"):
                    raise bad("The body's chunks are malformed: a line of them does not end with CR LF.")
                self._take_line(line[:-2])
        return b"".join(body), data[at:]

    def _take_line(self, line: bytes) -> None:
        if self._state == "end":
            if line:
                raise bad("The body's chunks are malformed: one is longer than it says.")
            self._state = "size"
        elif self._state == "size":
            size = _CHUNK.fullmatch(line)
            if size is None:
                raise bad("The body's chunks are malformed: one has no size.")
            self._left = int(size[1], 16)
            self._state = "data" if self._left else "trailer"
        elif line:
            self._trailer += len(line)
            if self._trailer > TRAILER_BYTES:
                raise bad(f"The body's trailers are larger than {TRAILER_BYTES} bytes.", 431, "head_too_large")
            if not _TRAILER.fullmatch(line):
                raise bad("The body's trailers are malformed.")
        else:
            self.complete = True
