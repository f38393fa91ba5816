"""An HTTP/1.1 request and its response as bytes, apart from any connection.

Owns how a request is encoded, and how llhttp's callbacks become a response: interim responses, the three ways in
which a body ends (RFC 9112 section 6.3), and the bound on what a response may make this server hold. Pure: must
not know sockets, time or what the body means. Header values may be secret: nothing here prints them.
"""

from __future__ import annotations

from collections.abc import Mapping

import httptools

from .base_url import BaseUrl
from .errors import MalformedResponse

__all__ = ["ResponseParser", "encode_request"]

MAX_OVERHEAD = 1 << 16  # bytes in a row without a byte of body: head, chunk sizes, trailers; llhttp has no limit


def encode_request(
    url: BaseUrl,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str = "POST",
    keep_alive: bool = False,
    proxied: bool = False,
) -> bytes:
    """Encodes a whole request, ready to send.

    `keep_alive`: the connection may be used again. `proxied`: the request goes to a proxy, which needs the whole
    URL (RFC 9112 section 3.2.2); inside a tunnel it is not proxied. Header values have to be visible ASCII: the
    caller has checked that.
    """
    head = {
        "Host": url.authority,
        "User-Agent": "tokentape",
        "Accept-Encoding": "identity",  # a server that compresses holds tokens back until its buffer is full
    }
    if body or method == "POST":
        head |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    head |= {"Connection": "keep-alive" if keep_alive else "close", **headers}
    origin = f"http://{url.authority}" if proxied else ""
    query = f"?{url.query}" if url.query else ""
    lines = [f"{method} {origin}{url.prefix}{path}{query} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items())]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


class ResponseParser:
    """Parses one response. `status` and `headers` hold once `head_complete` is set.

    `complete`: the body has ended as its framing says. `failure`: the bytes are no HTTP/1.1; `feed` has returned
    what of the body came before them. `received_any`: at least one byte has come.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # lower-case names; repeated ones joined by ", " (RFC 9110 section 5.3)
        self.head_complete = False
        self.complete = False
        self.received_any = False
        self.failure: MalformedResponse | None = None
        self._body: list[bytes] = []
        self._overhead = 0
        self._keep_alive = False
        self._trailing_bytes = False  # something followed the end of the response
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Takes received bytes and returns those of the body, which may be none. Never raises: see `failure`."""
        self.received_any = True
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("switched protocols, which nobody asked for")
        except httptools.HttpParserError as error:
            self._trailing_bytes = True
            if not self.complete:  # whatever follows the end of the body cannot make the response invalid
                self._fail(f"does not speak HTTP/1.1: {error}")
        if self._body:
            self._overhead = 0
        elif self._overhead > MAX_OVERHEAD and not self.complete:
            self._fail(f"sent more than {MAX_OVERHEAD} bytes of headers or framing")
        body = b"".join(self._body)
        self._body.clear()
        return body

    def feed_eof(self) -> None:
        """The server has closed. That completes a body without a framing of its own (RFC 9112 section 6.3)."""
        if self.head_complete and not self._framed:
            self.complete = True

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request, as far as the response tells.

        It can if the response is complete, nothing followed it, and the server has not announced a close.
        """
        return self.complete and self._keep_alive and not self._trailing_bytes

    @property
    def _framed(self) -> bool:
        # A transfer coding without chunked at its end is ended by the close as well.
        coding = self.headers.get("transfer-encoding", "").lower()
        return coding.endswith("chunked") if coding else "content-length" in self.headers

    def _fail(self, what: str) -> None:
        self.failure = MalformedResponse(what)

    # Callbacks of httptools. They must not raise: httptools would replace the exception by its own.

    def on_message_begin(self) -> None:
        self._trailing_bytes = self.complete  # a second response, although only one request was sent

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        self.head_complete = self.status >= 200

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self.head_complete:
            self._keep_alive = not self.complete and self._parser.should_keep_alive()
            self.complete = True
        else:
            self.headers.clear()  # 1xx: the real response follows (RFC 9110 section 15.2)
