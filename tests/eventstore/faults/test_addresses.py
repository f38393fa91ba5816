"""Opening a store where there is none, or with a name that may not: said at once, and as one plain error."""

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
def deaf() -> Iterator[int]:
    """A port that is taken, and on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def mute() -> Iterator[int]:
    """A port on which somebody listens and never says a word."""
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
async def test_nobody_listens(deaf: int, ask: object) -> None:
    await refused(ask, f"postgresql://x@127.0.0.1:{deaf}/x", StoreUnavailable)


@BOTH
async def test_no_socket(tmp_path: Path, ask: object) -> None:
    await refused(ask, f"postgresql://x@/x?host={tmp_path}", StoreUnavailable)


async def test_nobody_answers(mute: int) -> None:
    await refused(open_it, f"postgresql://x@127.0.0.1:{mute}/x", StoreUnavailable)


@BOTH
async def test_a_role_that_does_not_exist(database: TestDatabase, ask: object) -> None:
    error = await refused(ask, database.app_url.replace("tokentape_app", "nobody"), DatabaseRefused)
    assert isinstance(error, DatabaseRefused)
    assert error.sqlstate.startswith("28")


@BOTH
async def test_a_database_that_does_not_exist(database: TestDatabase, ask: object) -> None:
    error = await refused(ask, database.app_url.replace(database.name, "nowhere"), DatabaseRefused)
    assert isinstance(error, DatabaseRefused)
    assert error.sqlstate == "3D000"


async def refused(ask: object, dsn: str, kind: type[Exception]) -> Exception:
    """The error itself, soon, in no group, with the driver's as its cause."""
    assert callable(ask)
    with trio.fail_after(5.0), pytest.raises(kind) as caught:
        await ask(dsn)
    assert caught.value.__cause__ is not None
    return caught.value
