"""Connects: to the primary among an address's hosts, with settings that hold, and to nothing that cannot serve.

What is behind an address may be a standby, a pooler that gives each transaction another backend, a database
that cannot store every text, another history of the same database. Each is told from the right one here, before
the first statement of anybody. It knows no statement of the log and keeps no connection."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from eventstore.postgres.address import Address, BadAddress, parse
from eventstore.postgres.bridge import Bridge, Connection, Lost, Refused, Unfit
from eventstore.postgres.statements import STATEMENTS

_SETTINGS, _FACTS = STATEMENTS["settle"], STATEMENTS["facts"]
_FOREIGN_STATEMENT: Final = ("26000", "42P05")
"""A prepared statement is gone, or is there already: the backend is not the one it was prepared on."""

ROUNDS: Final = 8
"""How often two connections are compared: a pooler that is busy may give them different backends once."""


class Identity(NamedTuple):
    """Which database this is, and which of its histories. None in all three where the server does not say."""

    cluster: int | None = None
    database: int | None = None
    timeline: int | None = None


class Dialled(NamedTuple):
    """A connection to a primary whose settings hold, and what it is a connection to."""

    connection: Connection
    identity: Identity


def address_of(url: str) -> Address:
    """As `parse`, but `Unfit` for a URL that cannot be used."""
    try:
        return parse(url)
    except BadAddress as error:
        raise Unfit(f"the database's URL cannot be used: {error}") from None


async def dial(
    bridge: Bridge,
    url: str,
    purpose: str,
    settings: Mapping[str, str],
    *,
    timeout: float,
    command_timeout: float,
    probe: bool = False,
    accept: Callable[[Identity], None] = lambda _: None,
) -> Dialled:
    """A connection to the primary, with `settings` in force; each host gets `timeout` seconds.

    `purpose` is what pg_stat_activity shows as its name. `probe` also finds out whether a pooler gives each
    transaction another backend, where there is a pooler: it takes a second connection for a moment. `accept` is
    told what is there, and raises `Lost` to have the next host tried. Raises `Lost` (no primary answers),
    `Refused` (a wrong password, say) or `Unfit` (what is there will not do, with the remedy)."""
    address = address_of(url)
    if address.connect_timeout is not None:
        timeout = min(timeout, address.connect_timeout)
    name = {"application_name": purpose}
    misses: list[Lost] = []
    for host in address.in_order():
        try:
            connection = await bridge.connect(
                address.dsn, name, timeout=timeout, command_timeout=command_timeout, host=host
            )
        except Lost as error:
            misses.append(error)
            continue
        try:
            pooled = await _settle(connection, settings, address)
            if pooled and probe:
                other = await bridge.connect(
                    address.dsn, name, timeout=timeout, command_timeout=command_timeout, host=host
                )
                try:
                    await _refuse_transaction_pooling(connection, other, address)
                finally:
                    other.abort()
            identity = await _identify(connection)
            accept(identity)
        except Lost as error:
            connection.abort()
            misses.append(error)
        except BaseException:
            connection.abort()
            raise
        else:
            address.found(host)
            return Dialled(connection, identity)
    if len(misses) == 1:
        raise misses[0]
    raise Lost("no host of the database's URL is a primary that answers: " + "; ".join(map(str, misses)))


async def _settle(connection: Connection, settings: Mapping[str, str], address: Address) -> bool:
    """Puts the settings in force, looks whether they are, and at what is there. True where it is behind a
    pooler."""
    try:
        made = await connection.fetch(_SETTINGS, list(settings), list(settings.values()))
        ((standby, pid, encoding, held),) = await connection.fetch(_FACTS, list(settings))
    except Refused as error:
        if error.sqlstate in _FOREIGN_STATEMENT:
            raise _transaction_pooling(address) from error
        raise
    if standby:
        raise Lost("the database server is a standby: it takes no writes, and shows what was")
    if encoding != "UTF8":
        raise Unfit(
            f"the database's encoding is {encoding}, which cannot hold every text; make one with: "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    pooled: bool = pid != connection.server_pid
    connection.pid = pid
    for (name, value), found in zip(made, held, strict=True):
        if value != found:
            if pooled:
                raise _transaction_pooling(address)
            raise Unfit(f"the database does not keep the setting {name}={value} (it is {found} right after)")
    return pooled


async def _refuse_transaction_pooling(one: Connection, other: Connection, address: Address) -> None:
    """Raises `Unfit` where two connections share a backend, or one of them changes its own.

    Each of them keeps the one it was given as long as it is open, if the pooler is in session mode.
    """
    seen: set[tuple[int, int]] = set()
    try:
        for _ in range(ROUNDS):
            pids = [(await connection.fetch(STATEMENTS["backend"]))[0]["pid"] for connection in (one, other)]
            seen.add((pids[0], pids[1]))
    except Refused as error:
        if error.sqlstate in _FOREIGN_STATEMENT:
            raise _transaction_pooling(address) from error
        raise
    if len(seen) > 1 or any(first == second for first, second in seen):
        raise _transaction_pooling(address)


def _transaction_pooling(address: Address) -> Unfit:
    return Unfit(
        "a pooler in front of the database gives each transaction another connection (transaction mode). That "
        "takes away the advisory locks by which servers know each other alive, and the settings that make commits "
        "durable. Use the pooler's session mode, or the database's own address"
        + (f": {address.remedy}" if address.remedy else "")
    )


async def _identify(connection: Connection) -> Identity:
    try:
        ((cluster, database, timeline),) = await connection.fetch(STATEMENTS["identity"])
    except Refused:  # a managed server that does not tell its users
        return Identity()
    return Identity(cluster, database, timeline)
