"""The table of connection ends: which rows there are, and the rules by which the others are left out.

A row is a protocol, a request, a state that the client brings its connection into, and how it leaves then.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

PROTOCOLS = ("http1", "http2")
REQUESTS = ("sse", "ndjson", "held poll", "json page", "websocket", "post")
STREAMS = ("sse", "ndjson", "websocket")
"""Answers that stay open by themselves."""
STATES = (
    "extra byte",
    "pipelined request",
    "full command queue",
    "zero window",
    "half close",
    "upgrade",
    "slow reader",
    "a byte a second",
)
ENDINGS = ("fin", "rst", "silence")


@dataclass(frozen=True)
class Row:
    """One combination."""

    protocol: str
    request: str
    state: str
    ending: str

    def __str__(self) -> str:
        return f"{self.protocol}, {self.request}, {self.state}, {self.ending}"

    @property
    def left_out(self) -> str | None:
        """Why there is no such row, or None."""
        if self.state == "full command queue" and self.request != "websocket":
            return "only a WebSocket takes commands"
        if self.request in ("held poll", "post"):
            if self.state == "slow reader":
                return "these answers are too short to be read slowly"
            if self.state == "zero window" and self.protocol == "http1":
                return "these answers fit into the smallest socket buffer: no window of TCP can hold them up"
        if self.protocol == "http2" and self.state == "pipelined request":
            return "HTTP/2 has streams for that"
        if self.protocol == "http2" and self.state == "upgrade" and self.request != "websocket":
            return "HTTP/2 has no Upgrade (RFC 9113 section 8.6) but the extended CONNECT of a WebSocket"
        live = self.request in STREAMS and self.state in ("extra byte", "pipelined request", "upgrade")
        if self.ending == "silence" and live:
            return "who takes all that is sent and says nothing is a reader, and stays"
        held = self.request in STREAMS and self.state in ("zero window", "slow reader", "full command queue")
        if self.ending == "silence" and held and self.protocol == "http2":
            return "a stream of HTTP/2 that is stalled on a live connection ends with the connection, or the drain"
        return None

    @property
    def goes_on(self) -> bool:
        """Whether its client never comes to an end of what it says: it sends byte after byte, slowly."""
        return self.state == "a byte a second" and self.ending == "silence"

    @property
    def may_be_refused(self) -> bool:
        """Whether the server may end the connection instead of answering: the client broke its protocol's rules.

        DATA behind the end of a request is a stream error, which may be treated as one of the connection
        (RFC 9113 sections 5.1 and 5.4.2); bytes behind an upgrade came before it was agreed to (RFC 6455
        section 4.1).
        """
        if self.protocol == "http2":
            return self.state == "extra byte"
        return self.request == "websocket" and self.state in ("extra byte", "pipelined request")

    @property
    def large(self) -> bool:
        """Whether the answer has to be more than all buffers on the way hold."""
        return self.state in ("zero window", "slow reader", "full command queue", "half close")


ALL_ROWS = [Row(*fields) for fields in product(PROTOCOLS, REQUESTS, STATES, ENDINGS)]
ROWS = [row for row in ALL_ROWS if row.left_out is None]
