"""Opening a store on a database that does not exist, does not answer or refuses the role: one plain error,
at once.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from eventstore import EventStore, StoreUnavailable
from eventstore.postgres import PostgresBackend, PostgresOptions, schema_revision
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from tests.harness.databases import TestDatabase


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, and on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which a server accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


async def open_it(dsn: str) -> None:
    log = PostgresBackend(PostgresOptions(dsn, connect_timeout=0.5))
    async with EventStore(log).open():
        raise AssertionError("it opened")


async def ask_revision(dsn: str) -> None:
    await schema_revision(dsn)


BOTH = pytest.mark.parametrize("ask", [open_it, ask_revision])


@BOTH
async def test_closed_port(closed_port: int, ask: object) -> None:
    await assert_refused(ask, f"postgresql://x@127.0.0.1:{closed_port}/x", StoreUnavailable)


@BOTH
async def test_missing_socket(tmp_path: Path, ask: object) -> None:
    await assert_refused(ask, f"postgresql://x@/x?host={tmp_path}", StoreUnavailable)


async def test_silent_server(silent_port: int) -> None:
    await assert_refused(open_it, f"postgresql://x@127.0.0.1:{silent_port}/x", StoreUnavailable)


@BOTH
async def test_unknown_role(database: TestDatabase, ask: object) -> None:
    error = await assert_refused(ask, database.app_url.replace("tokentape_app", "nobody"), DatabaseRefused)
    assert isinstance(error, DatabaseRefused)
    assert error.sqlstate.startswith("28")


@BOTH
async def test_unknown_database(database: TestDatabase, ask: object) -> None:
    error = await assert_refused(ask, database.app_url.replace(database.name, "nowhere"), DatabaseRefused)
    assert isinstance(error, DatabaseRefused)
    assert error.sqlstate == "3D000"


async def assert_refused(ask: object, dsn: str, kind: type[Exception]) -> Exception:
    """The error itself, within a time limit, in no group, with the driver's error as its cause."""
    assert callable(ask)
    with trio.fail_after(5.0), pytest.raises(kind) as caught:
        await ask(dsn)
    assert caught.value.__cause__ is not None
    return caught.value
