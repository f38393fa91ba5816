"""Parses a PostgreSQL URL, such as a database provider shows it. It connects to nothing.

It knows which parameters of libpq (PostgreSQL documentation, section 34.1.2) asyncpg understands, which ones have
no meaning for it, and which ones ask for something that cannot be done. The last are refused, with what to write
instead. No message shows a part of the URL that may be a password. It knows no settings of the program and no SQL.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_PASSED_ON: Final = (
    *("dbname", "database", "user", "password", "passfile", "service", "options", "krbsrvname", "gsslib"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
"""asyncpg uses them, or sends them to the server, as libpq does."""

_IGNORED: Final = (
    *("fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "load_balance_hosts", "sslcompression", "sslsni", "sslcertmode", "gssdelegation"),
    *("min_protocol_version", "max_protocol_version"),
)
"""They tune libpq alone, or the store sets them in another way."""

_HANDLED: Final = (
    *("host", "port", "target_session_attrs", "connect_timeout", "application_name", "channel_binding"),
    *("gssencmode", "client_encoding", "requiressl", "require_auth", "hostaddr", "requirepeer", "replication"),
    "pgbouncer",
)
"""This file reads them."""

_POOLERS: Final = (
    ("-pooler.", 'take the host name without "-pooler"'),
    (".pooler.supabase.com:6543", "take port 5432, Supabase's session mode, or the direct address"),
)


@dataclass(slots=True)
class DatabaseUrl:
    """A parsed URL.

    `dsn`: what asyncpg is given. `hosts`: the servers to try, each as (name, port); if there are none, asyncpg
    looks where libpq would (PGHOST, a local socket). `user`, `program` (the application_name) and
    `connect_timeout` (in seconds) are None if the URL does not say. `remedy`: what to do if there is a pooler in
    transaction mode. `first`: index of the host that was the primary when it was last found; all callers that
    parse the same URL share it.
    """

    dsn: str
    hosts: tuple[tuple[str, int], ...]
    user: str | None
    program: str | None
    connect_timeout: float | None
    remedy: str
    first: int = 0

    def in_order(self) -> list[tuple[str, int] | None]:
        """The hosts to try, beginning with the last known primary. [None]: leave it to asyncpg."""
        hosts: list[tuple[str, int] | None] = [*self.hosts[self.first :], *self.hosts[: self.first]]
        return hosts or [None]

    def found(self, host: tuple[str, int] | None) -> None:
        """Remembers that this host is the primary."""
        if host is not None:
            self.first = self.hosts.index(host)


class BadDatabaseUrl(ValueError):
    """The URL cannot be used; its author is to blame. The message says what to write instead, without
    passwords."""


@lru_cache(maxsize=64)
def parse_database_url(url: str) -> DatabaseUrl:
    """Parses the URL. Raises `BadDatabaseUrl`."""
    scheme, separator, _ = url.partition("://")
    if scheme not in ("postgresql", "postgres") or not separator:
        if separator and "postgres" in scheme and scheme.isascii() and not set(scheme) & set("/@ "):
            raise BadDatabaseUrl(f"it begins with {scheme}://; write postgresql:// instead")
        raise BadDatabaseUrl("it has to begin with postgresql://")
    try:
        parts = urlsplit(url)
        parameters = (
            dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)) if parts.query else {}
        )
    except ValueError:  # its message would quote the faulty part, which may be a password
        raise BadDatabaseUrl(
            "it is no URL; in a user name or password write other characters than letters and digits as %40 "
            "and so on"
        ) from None
    if parts.fragment:
        raise BadDatabaseUrl("it holds a #; in a password write it as %23")
    if (
        "@" in parts.query
        and "@" not in parts.netloc
        and not parameters.keys() <= {*_PASSED_ON, *_IGNORED, *_HANDLED}
    ):
        raise BadDatabaseUrl("there is an @ behind the ?; in a password write ? as %3F")
    _check_parameters(parameters)
    authority = parts.netloc
    credentials, at, host_list = authority.rpartition("@")
    hosts = _hosts(host_list, parameters)
    user = unquote(credentials.partition(":")[0]) or parameters.get("user")
    kept = {name: value for name, value in parameters.items() if name in _PASSED_ON}
    if kept.get("sslrootcert") == "system":
        kept["sslrootcert"] = _system_certificates()
        kept["sslmode"] = "verify-full"  # as libpq does
    if parameters.get("requiressl") == "1":
        kept.setdefault("sslmode", "require")
    dsn = f"postgresql://{_escape_at(credentials)}{at}{parts.path}"
    if kept:
        dsn += "?" + urlencode(kept, quote_via=quote)
    remedy = next((what for sign, what in _POOLERS if sign in authority), "")
    return DatabaseUrl(
        dsn=dsn,
        hosts=hosts,
        user=user,
        program=parameters.get("application_name") or None,
        connect_timeout=_seconds(parameters.get("connect_timeout")),
        remedy=remedy,
    )


def _escape_at(credentials: str) -> str:
    return credentials.replace("@", "%40")  # asyncpg takes the first @ for the end of the password


def _check_parameters(parameters: dict[str, str]) -> None:
    """Raises `BadDatabaseUrl` for parameters that cannot be obeyed."""
    known = (*_PASSED_ON, *_IGNORED, *_HANDLED)
    for name, value in parameters.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "PostgreSQL's own programs would refuse it too"
            raise BadDatabaseUrl(
                f"{name} is no parameter of a PostgreSQL URL: {hint} (a setting of the server goes into "
                "options=-c%20name%3Dvalue)"
            )
        why = _REFUSED.get((name, value)) or _REFUSED.get((name, None))
        if why is not None:
            raise BadDatabaseUrl(f"{name}={value} cannot be had: {why}")
    attributes = parameters.get("target_session_attrs", "any")
    if attributes not in ("any", "primary", "read-write"):
        raise BadDatabaseUrl(
            f"target_session_attrs={attributes} asks for a server that takes no writes; leave it out, the primary "
            "among the hosts is found then"
        )
    if parameters.get("client_encoding", "utf8").lower().replace("-", "") not in ("utf8", "auto", "unicode"):
        raise BadDatabaseUrl("client_encoding has to be UTF8; leave it out")


_REFUSED: Final = {
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


def _hosts(host_list: str, parameters: dict[str, str]) -> tuple[tuple[str, int], ...]:
    names = [unquote(host) for host in host_list.split(",")] if host_list else []
    if not names and parameters.get("host"):
        names = parameters["host"].split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) not in (1, len(names) or 1):
        raise BadDatabaseUrl("there have to be as many ports as hosts, or one for all")
    found = []
    for n, name in enumerate(names):
        host, port = name, ports[n % len(ports)]
        if name.startswith("["):
            host, closed, rest = name[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise BadDatabaseUrl(f"{name} is no IPv6 address in brackets, such as [::1]:5432")
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
        raise BadDatabaseUrl(  # the text is not shown: it may be a part of a password
            "what stands in place of a port is no number from 1 to 65535; in a password write / as %2F, : as %3A, "
            "@ as %40"
        )
    return int(text)


def _seconds(text: str | None) -> float | None:
    if text in (None, "", "0", "-1"):
        return None
    assert text is not None
    if not text.isascii() or not text.isdigit():
        raise BadDatabaseUrl(f"connect_timeout={text} has to be a whole number of seconds")
    return max(2.0, float(text))  # as libpq: one second is rounded up to two


def _system_certificates() -> str:
    from ssl import get_default_verify_paths

    found = get_default_verify_paths()
    file = found.cafile or found.openssl_cafile
    if not file:
        raise BadDatabaseUrl("sslrootcert=system: this machine has no file of certificates; name one")
    return file
