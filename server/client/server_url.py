"""The URL of a server and the certificates trusted there, as one value for all transports.

Owns the check of what the person gave; it opens no connection.
"""

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from server.client.errors import BadAddress

DEFAULT = "http://127.0.0.1:8000"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    `base`: the URL without a slash at its end. `trust`: the trusted certificates; None without https.
    """

    base: str
    host: str
    port: int
    trust: ssl.SSLContext | None

    @property
    def websocket_base(self) -> str:
        """The base URL for WebSocket connections."""
        return "ws" + self.base.removeprefix("http")

    @property
    def authority(self) -> str:
        """Host and port as a request names them (RFC 9110 section 7.2)."""
        return urlsplit(self.base).netloc

    @property
    def path(self) -> str:
        """The prefix of every path of the API, where a proxy serves it below one; else empty."""
        return urlsplit(self.base).path

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, which is never reached through a proxy."""
        return self.host in _LOOPBACK


def parse_address(url: str, cacert: str | None = None) -> Address:
    """Checks a URL. `cacert`: a PEM file with the only authorities to trust.

    Raises `BadAddress`.
    """
    expected = f"It has to look like {DEFAULT}."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadAddress("bad_url", f"--url cannot be read: {error}", expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadAddress("bad_url", f"--url {url[:200]!r} is not the address of a server", expected)
    if "@" in parts.netloc:
        raise BadAddress("bad_url", "--url contains a user name or a password, which no server asks for", expected)
    secure = parts.scheme == "https"
    if cacert is not None and not secure:
        raise BadAddress("bad_cacert", "--cacert is for https, and --url is not", "Give an https:// address.")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    trust = _trust(cacert) if secure else None
    return Address(base, parts.hostname, port or (443 if secure else 80), trust)


def _trust(cacert: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cacert)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "strerror", None) or str(error)
        raise BadAddress(
            "bad_cacert",
            f"--cacert {cacert}: {why}",
            "It has to be a file with a certificate that begins with -----BEGIN CERTIFICATE-----.",
        ) from None
