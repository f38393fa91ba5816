"""Where a server is, and whom to trust there: one value for all transports."""

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from server.client.errors import BadAddress

DEFAULT = "http://127.0.0.1:8000"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """`base` has no slash at its end. `trust` is there for https alone."""

    base: str
    host: str
    port: int
    trust: ssl.SSLContext | None

    @property
    def websocket_base(self) -> str:
        """The same for WebSockets."""
        return "ws" + self.base.removeprefix("http")

    @property
    def authority(self) -> str:
        """Host and port as a request names them (RFC 9110 section 7.2)."""
        return urlsplit(self.base).netloc

    @property
    def path(self) -> str:
        """What stands before every path of the API: empty, or the prefix a proxy has given the server."""
        return urlsplit(self.base).path

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine: never reached through a proxy then."""
        return self.host in _LOOPBACK


def parse_address(url: str, cacert: str | None = None) -> Address:
    """The address as it was given, checked. `cacert`: a PEM file of the only authorities to trust.

    Raises `BadAddress`.
    """
    looks = f"It has to look like {DEFAULT}."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadAddress("bad_url", f"--url cannot be read: {error}", looks) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadAddress("bad_url", f"--url {url[:200]!r} is not the address of a server", looks)
    if "@" in parts.netloc:
        raise BadAddress("bad_url", "--url holds a name or a password, which no server asks for", looks)
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
