"""Host names and origins as a browser sends them: what `TOKENTAPE_ALLOWED_HOSTS` and `…_ALLOWED_ORIGINS` may hold.

Both lists are compared as text with what a request says. A value in a form that no request ever has (a wildcard,
a host with a scheme, an origin with a path) would allow nobody, and nobody would see why: it is refused at start,
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
    """A host as the `Host` header names it, without its port. Raises ValueError, with what to write instead."""
    if "://" in value or value.startswith("//"):
        raise ValueError(_instead("a host has no scheme", urlsplit(value).netloc.rpartition("@")[2], parse_host))
    if re.search(r"[/?#]", value):
        raise ValueError(_instead("a host has no path", re.split(r"[/?#]", value)[0], parse_host))
    if found := _WITH_PORT.fullmatch(value):
        raise ValueError(_instead("every port is meant", found[1], parse_host))
    if value.startswith(".") or "*" in value:
        raise ValueError("there are no wildcards: write each name, with commas between")
    return _host(value)


def parse_origin(value: str) -> str:
    """An origin as the `Origin` header names it. Raises ValueError, with what to write instead."""
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
        raise ValueError(_instead("an origin begins with its scheme", guess, parse_origin))
    if not _SCHEME.fullmatch(scheme):
        raise ValueError("it has to look like https://app.example or http://localhost:3000")
    if scheme in ("ws", "wss"):
        guess = f"http{scheme.removeprefix('ws')}://{rest}"
        raise ValueError(_instead("an origin is that of a page, for WebSockets too", guess, parse_origin))
    place = re.split(r"[/?#]", rest)[0]
    if rest not in (place, f"{place}/"):
        raise ValueError(_instead("an origin has no path", f"{scheme}://{place}", parse_origin))
    if "@" in place:
        guess = f"{scheme}://{place.rpartition('@')[2]}"
        raise ValueError(_instead("an origin holds no user and no password", guess, parse_origin))
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
        import idna  # its tables are large, and hardly anybody has such a name

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError("this is no host name") from None
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise ValueError("this is no host name; several are written with commas between")
    if _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
        # A browser makes an IPv4 address of every name that ends with a number, or refuses it.
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


def _instead(why: str, guess: str, parse: Callable[[str], str]) -> str:
    """The complaint, with the value that was probably meant where that one would be taken."""
    try:
        return f"{why}: write {parse(guess)!r}"
    except ValueError:
        return why
