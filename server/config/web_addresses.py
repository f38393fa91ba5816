"""Host names, origins and the public URL, as browsers and proxies write them.

Owns what `TOKENTAPE_ALLOWED_HOSTS`, `TOKENTAPE_ALLOWED_ORIGINS` and `TOKENTAPE_PUBLIC_URL` may hold. The two lists
are compared as text with what a request says. A value in a form that no request ever has (a wildcard, a host with
a scheme, an origin with a path) would allow nobody, and the operator would not see why: it is refused at start,
with the value that was probably meant. Spellings that mean the same (capital letters, IDN, an origin's default
port) are brought into the browser's form. Pure: it must not know settings or requests.
"""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
"""A browser leaves these out of an origin (https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin)."""
OPAQUE = ("file", "data", "blob", "about", "content")
"""Pages of these schemes send `Origin: null`."""

_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_WITH_PORT = re.compile(r"([^:]+|\[[^\]]*\]):[0-9*]*")
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)


def parse_host(value: str) -> str:
    """A host in the form of the `Host` header, without a port. Raises ValueError, which says what to write
    instead."""
    if "://" in value or value.startswith("//"):
        raise ValueError(_suggest("a host has no scheme", urlsplit(value).netloc.rpartition("@")[2], parse_host))
    if re.search(r"[/?#]", value):
        raise ValueError(_suggest("a host has no path", re.split(r"[/?#]", value)[0], parse_host))
    if found := _WITH_PORT.fullmatch(value):
        raise ValueError(_suggest("every port is meant", found[1], parse_host))
    if value.startswith(".") or "*" in value:
        raise ValueError("there are no wildcards: write each name, with commas between")
    return _host(value)


def parse_origin(value: str) -> str:
    """An origin in the form of the `Origin` header. Raises ValueError, which says what to write instead."""
    if value.lower() == "null":  # sandboxed frames, pages from files
        return "null"
    if re.search(r"[\s;]", value):
        raise ValueError("this is no origin; several are written with commas between")
    if "*" in value:
        raise ValueError("there are no wildcards: write each origin, with its port, with commas between")
    scheme, found, rest = value.lower().partition("://")
    if value.lower().partition(":")[0] in OPAQUE:
        raise ValueError("pages from files and the like have no origin of their own: write 'null'")
    if not found:
        local = re.match(r"(localhost|127\.|\[)", value.lower()) is not None
        guess = f"{'http' if local else 'https'}://{value.lstrip('/')}"
        raise ValueError(_suggest("an origin begins with its scheme", guess, parse_origin))
    if not _SCHEME.fullmatch(scheme):
        raise ValueError("it has to look like https://app.example or http://localhost:3000")
    if scheme in ("ws", "wss"):
        guess = f"http{scheme.removeprefix('ws')}://{rest}"
        raise ValueError(_suggest("an origin is that of a page, for WebSockets too", guess, parse_origin))
    place = re.split(r"[/?#]", rest)[0]
    if rest not in (place, f"{place}/"):
        raise ValueError(_suggest("an origin has no path", f"{scheme}://{place}", parse_origin))
    if "@" in place:
        guess = f"{scheme}://{place.rpartition('@')[2]}"
        raise ValueError(_suggest("an origin holds no user and no password", guess, parse_origin))
    return f"{scheme}://{_authority(scheme, place)}"


def _authority(scheme: str, place: str) -> str:
    host, port = place, ""
    if found := re.search(r":([^:\]]*)$", place):
        host, port = place[: found.start()], found[1]
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ValueError("the port has to be a number from 1 to 65535")
        port = "" if int(port) == DEFAULT_PORTS.get(scheme) else f":{int(port)}"
    if host.startswith("[") != (":" in host):
        raise ValueError("an IPv6 address in an origin stands in brackets: http://[::1]:3000")
    host = _host(host)
    return (f"[{host}]" if ":" in host else host) + port


def _host(value: str) -> str:
    """The host in the form in which a URL parser writes it: https://url.spec.whatwg.org/#host-parsing."""
    if (address := _as_ipv6(value)) is not None:
        return address
    name = value.lower()
    if not name.isascii():
        import idna  # imported here because its tables are large and such names are rare

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError("this is no host name") from None
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise ValueError("this is no host name; several are written with commas between")
    if _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
        # A browser reads every name whose last label is a number as an IPv4 address, or refuses it.
        try:
            return str(ipaddress.IPv4Address(name.rstrip(".")))
        except ValueError:
            raise ValueError("this is no IPv4 address: it has to look like 192.0.2.1") from None
    return name


def _as_ipv6(value: str) -> str | None:
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        return str(ipaddress.IPv6Address(inner)) if "%" not in inner else None
    except ValueError:
        return None


def _suggest(why: str, guess: str, parse: Callable[[str], str]) -> str:
    """The complaint `why`, with `guess` as a suggestion if `parse` accepts it."""
    try:
        return f"{why}: write {parse(guess)!r}"
    except ValueError:
        return why


def is_loopback(bind: str) -> bool:
    """Whether only this machine can reach an address to listen on (`host:port`, as in `TOKENTAPE_BIND`)."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_key_place(place: str) -> None:
    """Raises ValueError unless `place` is a file's name, or a URL that keys for tokens may come from."""
    if not place:
        raise ValueError("it has to name a file or a URL")
    if place.lstrip().startswith(("{", "-----BEGIN")):
        raise ValueError("it has to be the name of a file, or a URL, and not the keys themselves")
    if "://" not in place:
        return
    parts = urlsplit(place)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise ValueError("it has to be a file, or a URL like https://app.example/.well-known/jwks.json")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(
            "it has to be https, or http to this machine: whoever can change the keys on their way can sign tokens"
        )


_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


class PublicUrl:
    """The address at which clients reach this server behind a proxy, such as `https://example.org/tape`.

    The server itself is asked for `/v1/…` and sees nothing of `/tape`: without this setting its `Location` header
    and its links would lead out of the path that the proxy forwards. With None, links are paths from `/`. Raises
    ValueError, which says what an URL has to look like.
    """

    def __init__(self, url: str | None = None) -> None:
        self._base = ""
        self.prefix = ""
        """`/tape`, or an empty string: what is put before every path."""
        self.host: str | None = None
        """`example.org`, without a port."""
        self.origin: str | None = None
        """`https://example.org`: the `Origin` of a page from there."""
        if url is None:
            return
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username is not None
            or "?" in url
            or "#" in url
            or not url.isascii()
            or not _PATH.fullmatch(path)
        ):
            raise ValueError("it has to look like https://example.org or https://example.org/path")
        port = parts.port  # raises ValueError for one that is no number
        if port == 0:
            raise ValueError("the port has to be a number from 1 to 65535")
        self.host = parts.hostname
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = DEFAULT_PORTS[parts.scheme]
        self.origin = f"{parts.scheme}://{name}" + ("" if port in (None, usual) else f":{port}")
        self.prefix = path
        self._base = self.origin + path

    def path(self, path: str) -> str:
        """`path` as a client has to request it: for `Location` and links in answers (RFC 3986 section 4.2)."""
        return self.prefix + path

    def url(self, path: str) -> str:
        """`path` as an absolute URL where a public URL is set, else as it is.

        For readers who have no request to resolve a path against, such as a webhook's receiver.
        """
        return self._base + path
