"""Why a request that this server sent got no whole response.

One class for each kind of failure, so that a caller can translate it into its own words. Messages name no host:
they may be shown to anybody. `detail` names host, port and proxy, and is for the operator's log alone. Neither
holds a key or a password.
"""

from __future__ import annotations

__all__ = [
    "CertificateError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionCut",
    "HttpClientError",
    "MalformedResponse",
    "ProxyError",
    "ReadTimeout",
    "ResponseTimeout",
    "SendTimeout",
    "TunnelError",
]


class HttpClientError(Exception):
    """No whole response came. `detail` is for the operator's log; empty if there is nothing to add."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class ConnectError(HttpClientError):
    """No connection: the name is unknown, nobody listens there, or the TLS handshake failed."""

    def __init__(self, *, detail: str) -> None:
        super().__init__("cannot connect", detail=detail)


class CertificateError(HttpClientError):
    """The server's certificate is not valid for its name, or no trusted authority has signed it."""

    def __init__(self, *, detail: str) -> None:
        super().__init__("the certificate is not valid", detail=detail)


class ProxyError(HttpClientError):
    """The proxy opened no tunnel. `status`: its answer to CONNECT; None if it did not answer in HTTP."""

    def __init__(self, status: int | None, *, detail: str) -> None:
        told = "does not answer as one" if status is None else f"answered {status} to CONNECT"
        super().__init__(f"the proxy {told}", detail=detail)
        self.status = status

    @property
    def temporary(self) -> bool:
        """Whether asking again may help. It does not where the proxy wants another password (407) or forbids."""
        return self.status is None or self.status >= 500 or self.status in (408, 429)


class TunnelError(HttpClientError):
    """The proxy opened the tunnel and put bytes of its own into it."""

    def __init__(self, *, detail: str) -> None:
        super().__init__("the proxy put bytes of its own into the tunnel", detail=detail)


class MalformedResponse(HttpClientError):
    """The bytes are no HTTP/1.1 response. `what` continues a sentence about the server: "sent …", "switched …"."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the server {what}")
        self.what = what


class ConnectionCut(HttpClientError):
    """The connection ended before the response did. `reset`: by RST or a broken TLS record, not by a close."""

    def __init__(self, *, reset: bool, detail: str) -> None:
        super().__init__("the connection broke" if reset else "the connection was closed too early", detail=detail)
        self.reset = reset


class _PhaseTimeout(HttpClientError):
    """A phase took longer than its limit of `seconds`."""

    phase: str

    def __init__(self, seconds: float, *, detail: str) -> None:
        super().__init__(f"{self.phase} took over {seconds:g} s", detail=detail)
        self.seconds = seconds


class ConnectTimeout(_PhaseTimeout):
    """Name, TCP, tunnel and TLS together took too long."""

    phase = "connecting"


class SendTimeout(_PhaseTimeout):
    """The server took the request too slowly."""

    phase = "sending the request"


class ResponseTimeout(_PhaseTimeout):
    """The server has the whole request, and the head of its response did not come in time."""

    phase = "waiting for the response's head"


class ReadTimeout(_PhaseTimeout):
    """The response began, and then no byte of its body came for too long."""

    phase = "waiting for the next byte"
