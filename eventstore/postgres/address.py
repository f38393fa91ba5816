"""A database's URL as its provider hands it out, taken apart. Pure: nothing is connected to, no file is read.

It knows which parameters of libpq (PostgreSQL's documentation, section 34.1.2) this driver takes, which ones mean
nothing to it, and which ones ask for something that cannot be given: those are refused with what to do instead. It
knows no settings of a program and no SQL.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_DRIVER: Final = (
    *("dbname", "database", "user", "password", "passfile", "service", "options", "krbsrvname", "gsslib"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
"""What the driver does, or hands to the server, as libpq would."""

_NOTHING: Final = (
    *("fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "load_balance_hosts", "sslcompression", "sslsni", "sslcertmode", "gssdelegation"),
    *("min_protocol_version", "max_protocol_version"),
)
"""What tunes libpq, or is set here in another way."""

_HERE: Final = (
    *("host", "port", "target_session_attrs", "connect_timeout", "application_name", "channel_binding"),
    *("gssencmode", "client_encoding", "requiressl", "require_auth", "hostaddr", "requirepeer", "replication"),
    "pgbouncer",
)
"""What is looked at below."""

_POOLERS: Final = (
    ("-pooler.", 'take the host name without "-pooler"'),
    (".pooler.supabase.com:6543", "take port 5432, Supabase's session mode, or the direct address"),
)


@dataclass(slots=True)
class Address:
    """`dsn` is what the driver gets, `hosts` where it may be sent, in the order to try; a host is (name, port).

    Without hosts the driver looks where libpq would (PGHOST, a local socket). `user` is None where the URL has
    none. `program` is the URL's application_name, `connect_timeout` in seconds, None where it names none.
    `remedy`: what to do where a pooler is found there. `first`: the host that was the primary when last seen;
    shared by all who parsed the same URL."""

    dsn: str
    hosts: tuple[tuple[str, int], ...]
    user: str | None
    program: str | None
    connect_timeout: float | None
    remedy: str
    first: int = 0

    def in_order(self) -> list[tuple[str, int] | None]:
        """The hosts to try, beginning with the one that was right last time."""
        hosts: list[tuple[str, int] | None] = [*self.hosts[self.first :], *self.hosts[: self.first]]
        return hosts or [None]

    def found(self, host: tuple[str, int] | None) -> None:
        """The primary is there: begin with it next time."""
        if host is not None:
            self.first = self.hosts.index(host)


class BadAddress(ValueError):
    """The URL cannot be used. The message says what is wrong with it and what to write, and shows no password."""


@lru_cache(maxsize=64)
def parse(url: str) -> Address:
    """The URL taken apart. Raises `BadAddress`: whoever wrote it is to blame."""
    scheme, separator, _ = url.partition("://")
    if scheme not in ("postgresql", "postgres") or not separator:
        if separator and "postgres" in scheme and scheme.isascii() and not set(scheme) & set("/@ "):
            raise BadAddress(f"it begins with {scheme}://; write postgresql:// instead")
        raise BadAddress("it has to begin with postgresql://")
    try:
        parts = urlsplit(url)
        parameters = (
            dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)) if parts.query else {}
        )
    except ValueError:  # whose words quote what is wrong, which may be a part of a password
        raise BadAddress(
            "it is no URL; in a user name or password write other characters than letters and digits as %40 "
            "and so on"
        ) from None
    if parts.fragment:
        raise BadAddress("it holds a #; in a password write it as %23")
    if "@" in parts.query and "@" not in parts.netloc and not parameters.keys() <= {*_DRIVER, *_NOTHING, *_HERE}:
        raise BadAddress("there is an @ behind the ?; in a password write ? as %3F")
    _refuse(parameters)
    authority = parts.netloc
    credentials, at, places = authority.rpartition("@")
    hosts = _hosts(places, parameters)
    user = unquote(credentials.partition(":")[0]) or parameters.get("user")
    kept = {name: value for name, value in parameters.items() if name in _DRIVER}
    if kept.get("sslrootcert") == "system":
        kept["sslrootcert"] = _system_certificates()
        kept["sslmode"] = "verify-full"  # as libpq does
    if parameters.get("requiressl") == "1":
        kept.setdefault("sslmode", "require")
    dsn = f"postgresql://{_as_is(credentials)}{at}{parts.path}"
    if kept:
        dsn += "?" + urlencode(kept, quote_via=quote)
    remedy = next((what for sign, what in _POOLERS if sign in authority), "")
    return Address(
        dsn=dsn,
        hosts=hosts,
        user=user,
        program=parameters.get("application_name") or None,
        connect_timeout=_seconds(parameters.get("connect_timeout")),
        remedy=remedy,
    )


def _as_is(credentials: str) -> str:
    return credentials.replace("@", "%40")  # the driver takes the first @ for the end of the password


def _refuse(parameters: dict[str, str]) -> None:
    """Raises `BadAddress` for what cannot be given."""
    known = (*_DRIVER, *_NOTHING, *_HERE)
    for name, value in parameters.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "PostgreSQL's own programs would refuse it too"
            raise BadAddress(
                f"{name} is no parameter of a PostgreSQL URL: {hint} (a setting of the server goes into "
                "options=-c%20name%3Dvalue)"
            )
        why = _WHY_NOT.get((name, value)) or _WHY_NOT.get((name, None))
        if why is not None:
            raise BadAddress(f"{name}={value} cannot be had: {why}")
    attributes = parameters.get("target_session_attrs", "any")
    if attributes not in ("any", "primary", "read-write"):
        raise BadAddress(
            f"target_session_attrs={attributes} asks for a server that takes no writes; leave it out, the primary "
            "among the hosts is found then"
        )
    if parameters.get("client_encoding", "utf8").lower().replace("-", "") not in ("utf8", "auto", "unicode"):
        raise BadAddress("client_encoding has to be UTF8; leave it out")


_WHY_NOT: Final = {
    ("gssencmode", "require"): "this driver has no GSS encryption; use TLS (sslmode=verify-full)",
    ("requirepeer", None): "this driver does not ask who owns the socket; leave it out, or use TLS",
    ("require_auth", None): "this driver does not choose among ways to log in; leave it out",
    ("hostaddr", None): "write the address as the host",
    ("replication", None): "a replication connection takes no statements; leave it out",
    ("pgbouncer", "true"): (
        "it says that a pooler in transaction mode is there, which takes away the advisory locks by which servers "
        "know each other alive; use the direct address, or the pooler's session mode, and leave the parameter out"
    ),
}


def _hosts(places: str, parameters: dict[str, str]) -> tuple[tuple[str, int], ...]:
    names = [unquote(place) for place in places.split(",")] if places else []
    if not names and parameters.get("host"):
        names = parameters["host"].split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) not in (1, len(names) or 1):
        raise BadAddress("there have to be as many ports as hosts, or one for all")
    found = []
    for n, name in enumerate(names):
        host, port = name, ports[n % len(ports)]
        if name.startswith("["):
            host, closed, rest = name[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise BadAddress(f"{name} is no IPv6 address in brackets, such as [::1]:5432")
            port = rest[1:] or port
        elif not name.startswith("/"):
            host, colon, own = name.partition(":")
            port = own if colon else port
        found.append((host or "localhost", _port(port)))
    return tuple(found)


def _port(text: str) -> int:
    if text == "":
        return 5432
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise BadAddress(  # not shown: it may be a part of a password
            "what stands in place of a port is no number from 1 to 65535; in a password write / as %2F, : as %3A, "
            "@ as %40"
        )
    return int(text)


def _seconds(text: str | None) -> float | None:
    if text in (None, "", "0", "-1"):
        return None
    assert text is not None
    if not text.isascii() or not text.isdigit():
        raise BadAddress(f"connect_timeout={text} has to be a whole number of seconds")
    return max(2.0, float(text))  # as libpq: one second is rounded up to two


def _system_certificates() -> str:
    from ssl import get_default_verify_paths

    found = get_default_verify_paths()
    file = found.cafile or found.openssl_cafile
    if not file:
        raise BadAddress("sslrootcert=system: this machine has no file of certificates; name one")
    return file
