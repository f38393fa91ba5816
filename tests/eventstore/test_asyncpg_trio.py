"""The asyncpg driver under trio: each driver error becomes one of two classes and keeps its cause."""

import asyncio

import asyncpg
import pytest
import trio
import trio.testing

from eventstore import StoreUnavailable
from eventstore.postgres.asyncpg_trio import Connection, ConnectionLost, DatabaseRefused, open_driver
from tests.eventstore.sample_events import BOUND
from tests.harness.databases import TestDatabase

LOST: list[Exception | asyncio.CancelledError] = [
    asyncpg.ConnectionDoesNotExistError("08003"),
    asyncpg.TooManyConnectionsError("53300"),
    asyncpg.DiskFullError("53100"),
    asyncpg.AdminShutdownError("57P01"),
    asyncpg.CrashShutdownError("57P02"),
    asyncpg.CannotConnectNowError("57P03"),
    asyncpg.QueryCanceledError("57014"),
    asyncpg.DeadlockDetectedError("40P01"),
    asyncpg.SerializationError("40001"),
    asyncpg.LockNotAvailableError("55P03"),
    asyncpg.ReadOnlySQLTransactionError("25006"),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InternalClientError("the protocol is out of step"),
    ConnectionResetError(),
    FileNotFoundError(),
    TimeoutError(),
    EOFError(),
    asyncio.CancelledError(),
]
REFUSED: list[asyncpg.PostgresError] = [
    asyncpg.UniqueViolationError("23505"),
    asyncpg.InvalidTextRepresentationError("22P02"),
    asyncpg.InsufficientPrivilegeError("42501"),
    asyncpg.InvalidAuthorizationSpecificationError("28000"),
    asyncpg.ProgramLimitExceededError("54000"),
]


async def raise_in_driver(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async with open_driver() as driver:
        await driver.run(fail)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_lost_connection_errors(error: Exception) -> None:
    with pytest.raises(ConnectionLost) as caught:
        await raise_in_driver(error)
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, StoreUnavailable)
    assert str(error) in str(caught.value)


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: type(error).__name__)
async def test_refused_statement_errors(error: asyncpg.PostgresError) -> None:
    with pytest.raises(DatabaseRefused) as caught:
        await raise_in_driver(error)
    assert caught.value.__cause__ is error
    assert caught.value.sqlstate == type(error).sqlstate
    assert type(error).sqlstate in str(caught.value)
    assert not isinstance(caught.value, StoreUnavailable)


async def test_other_errors_pass_unchanged() -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        await raise_in_driver(ZeroDivisionError())


async def test_several_errors_stay_in_one_group() -> None:
    async def fail() -> None:
        raise ConnectionLost("one of two")

    with pytest.RaisesGroup(ConnectionLost, ConnectionLost, flatten_subgroups=True):
        async with open_driver(), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)


async def test_ended_is_set_when_the_connection_is_lost(database: TestDatabase) -> None:
    async with open_driver() as driver:
        one, two = [
            await driver.connect(database.app_url, {}, timeout=BOUND, command_timeout=BOUND) for _ in range(2)
        ]
        (pid,) = (await one.fetch("SELECT pg_backend_pid()"))[0]
        assert not one.ended.is_set()
        await two.fetch("SELECT pg_terminate_backend($1)", pid)
        with trio.fail_after(BOUND):
            await one.ended.wait()
        with pytest.raises(ConnectionLost):
            await one.fetch("SELECT 1")
        two.abort()
        with trio.fail_after(BOUND):
            await two.ended.wait()


async def test_own_notifications_are_ignored(database: TestDatabase) -> None:
    heard: list[str] = []

    async def tell(connection: Connection, what: str) -> None:
        await connection.fetch("SELECT pg_notify('news', $1)", what)

    async def hears(what: str) -> None:
        with trio.fail_after(BOUND):
            while what not in heard:
                await trio.sleep(0.005)

    async with open_driver() as driver, open_driver() as neighbour:
        hearer, own, stranger = [
            await made.connect(database.app_url, {}, timeout=BOUND, command_timeout=BOUND)
            for made in (driver, driver, neighbour)
        ]
        await hearer.listen("news", heard.append)
        for _ in range(1000):
            own.mark_own()
        stranger.mark_own()  # its own, not ours: another store of the same program
        await tell(own, "own")
        await tell(stranger, "stranger")
        await hears("stranger")
        assert heard == ["stranger"]
        # `ended`, and one more, however often it was marked.
        assert len(getattr(own._raw, "_termination_listeners")) == 2  # noqa: B009  # not in the stubs
        own.abort()
        with trio.fail_after(BOUND):
            while driver.own_pids:
                await trio.sleep(0.005)
        for connection in (hearer, stranger):
            connection.abort()


@pytest.mark.parametrize(("message", "ends"), [("Future exception was never retrieved", False), ("broken", True)])
async def test_abandoned_future_does_not_end_the_loop(message: str, ends: bool) -> None:
    """A connect cancelled during the TLS handshake leaves a future whose exception nobody reads."""

    async def report(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_exception_handler({"message": message, "exception": ConnectionError("connection_lost")})

    async def use_driver() -> None:
        async with open_driver() as driver:
            await report(driver._loop)
            await trio.testing.wait_all_tasks_blocked()

    if not ends:
        await use_driver()
        return
    with pytest.RaisesGroup(ConnectionError, flatten_subgroups=True):
        await use_driver()
