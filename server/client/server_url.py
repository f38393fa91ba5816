"""The URL of a server, the certificates trusted there, and the key for it, as one value for all transports.

Owns the check of what the person gave; it opens no connection. The key is in no message.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from server.client.errors import BadAddress, BadKey

DEFAULT = "http://127.0.0.1:8000"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_KEY_BYTES = 16_384
"""Of a key or a signed token. More than a server takes in one header."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    `base`: the URL without a slash at its end. `trust`: the trusted certificates; None without https. `key`: what
    the person signs in with, an API key or a signed token; None without one.
    """

    base: str
    host: str
    port: int
    trust: ssl.SSLContext | None
    key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that every request and every WebSocket upgrade has, the first one and each reconnect."""
        return {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}

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


def parse_address(url: str, cacert: str | None = None, key: str | None = None) -> Address:
    """Checks a URL. `cacert`: a PEM file with the only authorities to trust. `key`: of `read_key`.

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
    if port == 0:
        raise BadAddress("bad_url", "--url names the port 0, where nobody listens", "Ports are from 1 to 65535.")
    secure = parts.scheme == "https"
    if cacert is not None and not secure:
        raise BadAddress("bad_cacert", "--cacert is for https, and --url is not", "Give an https:// address.")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    trust = _trust(cacert) if secure else None
    if port is None:
        port = 443 if secure else 80
    return Address(base, parts.hostname, port, trust, key)


def read_key(text: str | None, file: str | None) -> str | None:
    """Returns the key that a request is signed in with; None if the person gave none.

    `text`: the value of TOKENTAPE_KEY; `file`: the path of --key-file, which wins. A line end after the key is
    left out. Raises `BadKey` for a file that cannot be read, and for what cannot stand in a header.
    """
    if file is None:
        return _check_key("TOKENTAPE_KEY", text.strip()) if text else None
    source = f"--key-file {file}"
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(MAX_KEY_BYTES + 3)  # with the line end, and one byte that shows there is more
    except OSError as error:
        raise BadKey(f"{source}: {error.strerror or error}", "It has to name a file that holds the key.") from None
    return _check_key(source, content.decode("latin-1").strip())


def _check_key(source: str, key: str) -> str:
    """Refuses what is no key before it is sent, without repeating it: it may be another secret, such as a PEM."""
    form = "It has to hold one key, such as tt_key_…, or one signed token, and nothing else."
    if not key:
        raise BadKey(f"{source} is empty", form)
    if len(key) > MAX_KEY_BYTES:
        raise BadKey(f"{source} holds more than {MAX_KEY_BYTES} bytes", form)
    if not all("!" <= character <= "~" for character in key):
        raise BadKey(f"{source} holds spaces, several lines, or characters that are not ASCII", form)
    return key


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
