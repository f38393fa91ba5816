"""One HTTP/1.1 request and its response as bytes, on no connection in particular.

Owns the request's head, and the reading of a response through llhttp: interim responses, the three ways a body
ends (RFC 9112 section 6.3) and the bounds on what a response may make us hold. Pure: must not know sockets, time
or what the body means. Header values may be secret: nothing here prints them.
"""

from __future__ import annotations

from collections.abc import Mapping

import httptools

from .address import Address
from .errors import UpstreamError

__all__ = ["ResponseParser", "encode_request"]

MAX_OVERHEAD = 1 << 16  # bytes without a byte of body: head, chunk sizes, trailers; llhttp itself knows no bound


def encode_request(
    address: Address,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    keep: bool = False,
    proxied: bool = False,
) -> bytes:
    """A whole POST, ready to send; `keep`: the connection may be used again; `proxied`: it goes to a proxy.

    Header values are visible ASCII already (whoever makes them sees to that).
    """
    head = {
        "Host": address.authority,
        "User-Agent": "tokentape",
        "Accept-Encoding": "identity",  # a compressor buffers, and with it every token waits
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "keep-alive" if keep else "close",
        **headers,
    }
    target = f"http://{address.authority}" if proxied else ""  # RFC 9112 section 3.2.2; https goes by a tunnel
    query = f"?{address.query}" if address.query else ""
    lines = [f"POST {target}{address.prefix}{path}{query} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items())]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


class ResponseParser:
    """Reads one response. Feed what arrives; `status` and `headers` count once `head_done` is set.

    `complete`: the body has ended as its framing says. `failure`: the bytes are no HTTP/1.1 (the provider's
    fault); body that came before the fault was returned by `feed` all the same. `heard`: a byte has come.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # lower-case names; repeated ones joined by ", " (RFC 9110 section 5.3)
        self.head_done = False
        self.complete = False
        self.heard = False
        self.failure: UpstreamError | None = None
        self._body: list[bytes] = []
        self._overhead = 0
        self._keep_alive = False
        self._excess = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in `data`, maybe none; never raises."""
        self.heard = True
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("switched protocols, which nobody asked for")
        except httptools.HttpParserError as error:
            self._excess = True
            if not self.complete:  # what follows the end of the body is nobody's business
                self._fail(f"does not speak HTTP/1.1: {error}")
        if self._body:
            self._overhead = 0
        elif self._overhead > MAX_OVERHEAD and not self.complete:
            self._fail(f"sent more than {MAX_OVERHEAD} bytes of headers or framing")
        body = b"".join(self._body)
        self._body.clear()
        return body

    def feed_eof(self) -> None:
        """The peer has closed: a body without a framing of its own is complete by that (RFC 9112 section 6.3)."""
        if self.head_done and not self._framed:
            self.complete = True

    @property
    def reusable(self) -> bool:
        """The response is complete, nothing came after it, and the provider does not mean to close."""
        return self.complete and self._keep_alive and not self._excess

    @property
    def _framed(self) -> bool:
        # A transfer coding without chunked at its end is closed by EOF as well.
        coding = self.headers.get("transfer-encoding", "").lower()
        return coding.endswith("chunked") if coding else "content-length" in self.headers

    def _fail(self, what: str) -> None:
        self.failure = UpstreamError("upstream_malformed", f"the provider {what}")

    # Callbacks of httptools; they must not raise, for it would hide the reason.

    def on_message_begin(self) -> None:
        self._excess = self.complete  # a second response, to a question that nobody asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        self.head_done = self.status >= 200

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self.head_done:
            self._keep_alive = not self.complete and self._parser.should_keep_alive()
            self.complete = True
        else:
            self.headers.clear()  # 1xx: the real response follows (RFC 9110 section 15.2)
