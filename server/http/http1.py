"""hypercorn's HTTP/1.1 (0.18), and what it turns into: where its parts are put in place of its own.

`Upgrade: h2c` is not heeded, as RFC 9113 section 3.1 leaves it: proxies have let it through to servers behind
them, and with it requests that they never saw. HTTP/2 without TLS begins with its preface (section 3.3).
"""

import h11
import hypercorn.protocol
import hypercorn.protocol.h11
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol

from server.http.http2 import Http2
from server.http.websocket import MendedWSStream


class MendedH11(H11Protocol):
    """One connection."""

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0":
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])


def install() -> None:
    """Puts the mended parts where hypercorn takes its own from."""
    vars(hypercorn.protocol.h11)["WSStream"] = MendedWSStream
    vars(hypercorn.protocol)["H11Protocol"] = MendedH11
    vars(hypercorn.protocol)["H2Protocol"] = Http2
