"""asyncpg connections for trio code, by way of trio-asyncio. No other file of the project uses asyncio.

It has few operations: open the driver, connect, fetch, listen, wait for a connection's end, abort it. Every
exception of asyncpg is translated here, with the original as its cause. `ConnectionLost`: the connection or the
server is gone, and a statement that was under way may have been executed or not. `DatabaseRefused`: the database
answered with an error. This file knows no SQL.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import trio
import trio_asyncio

from eventstore.errors import StoreError, StoreUnavailable

T = TypeVar("T")
Row = asyncpg.Record

# SQLSTATE classes after which the same statement may succeed when it is sent again (PostgreSQL documentation,
# appendix A): 08 connection, 53 out of resources, 57 operator intervention (restart, cancel), 40 rollback
# (deadlock). 25006: this server has become a read-only standby.
_TRANSIENT = ("08", "53", "57", "40", "25006")

_LOCK_NOT_AVAILABLE = "55P03"

# asyncpg cannot encode a value, such as an unpaired surrogate or an integer of more than 64 bits; nothing was
# sent. It is a subclass of InterfaceError, like the error for a lost connection. (`asyncpg.DataError` is the
# server's.)
_UNSENDABLE = asyncpg.exceptions._base.DataError

_CONNECTION_GONE = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, EOFError)


class ConnectionLost(StoreUnavailable):
    """The connection is gone, or the server cannot serve now. Connect again, and send again."""

    kind = "lost"


class LockTimeout(ConnectionLost):
    """Another transaction holds a row or a table for too long. The connection is as it was.

    The same statement may succeed later, or at once without the row that is locked.
    """

    kind = "locked"


class DatabaseRefused(StoreError):
    """The database answered with an error. The author of the statement or of its values is to blame."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})" if sqlstate else message)
        self.sqlstate = sqlstate


class UnsuitableDatabase(DatabaseRefused):
    """The database, or the way to it, cannot be used for the log. Whoever chose its address is to blame."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "")


class Driver:
    """Runs asyncpg's code. Made by `open_driver`."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.own_pids: set[int] = set()  # server processes of the connections that `mark_own` was called on

    async def run(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """Calls an asyncio function and waits for it. Raises asyncpg's errors translated."""
        return await self._translated(trio_asyncio.aio_as_trio(call, loop=self._loop)(*args, **options))

    async def run_inline(self, coroutine: Coroutine[Any, Any, T], end_connection: Callable[[], None]) -> T:
        """As `run`, but without an asyncio task, for a coroutine that waits only for asyncpg's own futures.

        An asyncio task for each statement, woken through the loop's queue, took half of the statement's time. If
        the caller is cancelled, `end_connection` is called, and the coroutine ends because its connection does.
        """
        return await self._translated(_run_inline(coroutine, end_connection))

    async def _translated(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except _UNSENDABLE as error:
            raise DatabaseRefused(f"the database driver cannot send a value: {error}", "22000") from error
        except asyncpg.exceptions.ClientConfigurationError as error:
            raise UnsuitableDatabase(f"the database's address cannot be used: {error}") from error
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if "unsupported startup parameter" in str(error):
                raise UnsuitableDatabase(
                    f"a pooler in front of the database takes no such parameter: {error}"
                ) from error
            if state == _LOCK_NOT_AVAILABLE:
                raise LockTimeout(f"a row is locked for too long: {error}") from error
            if state.startswith(_TRANSIENT):
                raise ConnectionLost(f"the database is not available: {error}") from error
            raise DatabaseRefused(str(error), state) from error
        # asyncio's CancelledError is not the cancellation of this task, which would be trio's: asyncpg's own tasks
        # end with it. InternalClientError: the server closed the connection while the next statement was being
        # sent.
        except (*_CONNECTION_GONE, asyncio.CancelledError) as error:
            raise ConnectionLost(f"the database connection failed: {error!r}") from error  # noqa: ASYNC104
        return result

    async def connect(
        self,
        dsn: str,
        settings: Mapping[str, str],
        *,
        timeout: float,
        command_timeout: float,
        host: tuple[str, int] | None = None,
    ) -> "Connection":
        """Opens a connection, to `host` (name, port) instead of the URL's host if given.

        `settings` are sent in the startup packet. `timeout` and `command_timeout`, in seconds, bound the
        connecting and each statement. Raises `ConnectionLost`, `DatabaseRefused` or `UnsuitableDatabase`.
        """
        where = {} if host is None else {"host": host[0], "port": host[1]}
        raw = await self.run(
            asyncpg.connect,
            dsn,
            server_settings=dict(settings),
            timeout=timeout,
            target_session_attrs="any",  # the caller checks which kind of server this is
            **where,
        )
        return Connection(self, raw, command_timeout)


class Connection:
    """One connection, for one task at a time. `ended` is set when the connection is gone, whoever ended it."""

    def __init__(self, driver: Driver, raw: "asyncpg.Connection[Row]", timeout: float) -> None:
        self._driver = driver
        self._raw = raw
        self._timeout = timeout
        self.ended = trio.Event()
        self.pid: int = raw.get_server_pid()
        """The server process, as notifications name it. Behind a pooler the caller has to correct it."""
        raw.add_termination_listener(self._on_end)

    def _on_end(self, _: Any) -> None:
        self.ended.set()

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """Runs one statement, in one round trip and one implicit transaction, and returns all its rows.

        Raises `ConnectionLost` (also after the timeout), `LockTimeout` or `DatabaseRefused`.
        """
        # Not asyncpg's own timeout: each of its timers stays in the loop's queue until it is due, answered or not.
        with trio.move_on_after(self._timeout):
            return await self._driver.run_inline(self._raw.fetch(sql, *values), self._raw.terminate)
        raise ConnectionLost(f"the database did not answer within {self._timeout:g} s")

    @property
    def server_pid(self) -> int:
        """The server process that the startup named. A pooler names a number of its own here."""
        return self._raw.get_server_pid()

    @property
    def raw(self) -> "asyncpg.Connection[Row]":
        """asyncpg's own connection, for a library that has its own statements (migrations)."""
        return self._raw

    async def listen(self, channel: str, callback: Callable[[str], None]) -> None:
        """Calls `callback(payload)` for each notification on the channel, except for those of `mark_own`."""
        own = self._driver.own_pids

        def receive(_: Any, pid: int, __: str, payload: object) -> None:
            if pid not in own:
                callback(str(payload))

        await self._driver.run(self._raw.add_listener, channel, receive)

    def mark_own(self) -> None:
        """Lets this driver's `listen` ignore what is sent over this connection: this process knows it already."""
        own, pid = self._driver.own_pids, self.pid
        if pid not in own:
            own.add(pid)
            self._raw.add_termination_listener(lambda _: own.discard(pid))

    def abort(self) -> None:
        """Closes the socket at once, without waiting and without telling the server."""
        self._raw.terminate()


class _RescheduleTask:
    """The callback of a future that reschedules a trio task. It may be called at any time, even by asyncpg's
    code."""

    __slots__ = ("_task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task

    def __call__(self, _: Any) -> None:
        trio.lowlevel.reschedule(self._task)


def _reschedule_without_queue(loop: Any) -> None:
    """Makes the loop call `_RescheduleTask` at once instead of through its queue.

    asyncio calls the callbacks of a future by `call_soon`, which trio-asyncio implements with a memory channel and
    another task: one more round of trio's scheduler for every token. A call at once is safe, because rescheduling
    only puts the task into trio's next batch, so that none of its code runs inside asyncpg.
    """
    call_soon = loop.call_soon

    def soon(callback: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if type(callback) is _RescheduleTask:
            callback(*args)
            return None
        return call_soon(callback, *args, **options)

    loop.call_soon = soon


async def _run_inline(coroutine: Coroutine[Any, Any, T], end_connection: Callable[[], None]) -> T:
    """Runs an asyncio coroutine that waits for nothing but futures: sleeps until each one is done, then goes
    on."""
    task = trio.lowlevel.current_task()
    raise_cancelled: Callable[[], Any] | None = None
    future: asyncio.Future[Any]
    wake = _RescheduleTask(task)

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        # Here asyncpg would send the server a request to cancel the statement. We close the socket instead, and
        # the end of the socket wakes this task. For the cancel request could lose an event that was shown: 1. an
        # append is committed on the primary and waits for a synchronous standby; 2. the cancel request ends that
        # wait, as if the standby had answered; 3. the append is sent again, is found in the log, and is
        # acknowledged; 4. its event is shown though the standby lacks it. With a closed socket the wait of step 1
        # goes on, and nobody sees the event before it is over.
        nonlocal raise_cancelled
        raise_cancelled = raise_cancel
        end_connection()
        if not future.done():
            future.cancel()
        return trio.lowlevel.Abort.FAILED

    try:
        while raise_cancelled is None:
            future = coroutine.send(None)
            future._asyncio_future_blocking = False  # as an asyncio task does before it waits for the future
            future.add_done_callback(wake)
            await trio.lowlevel.wait_task_rescheduled(abort)
    except StopIteration as end:
        result: T = end.value
        return result
    if not future.cancelled():
        future.exception()  # otherwise asyncio logs that the exception was never retrieved
    coroutine.close()  # its connection is gone, whatever the result of the future was
    raise_cancelled()
    raise AssertionError("trio's raise_cancel returned")


def _ignore_abandoned_futures(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignores the exception of a future that nobody waits for any more; any other fault of the loop is raised.

    1. asyncpg asks over TCP whether the server speaks TLS, and waits for the answer on a future. 2. The connect is
    cancelled, because the store closes. 3. The connection closes, and asyncpg sets an exception on the future.
    Without this handler, that exception ends the whole event loop, and with it the process.
    """
    if context.get("message") != "Future exception was never retrieved":
        loop.default_exception_handler(context)


@asynccontextmanager
async def open_driver() -> AsyncIterator[Driver]:
    """Runs the asyncio event loop that asyncpg needs, inside trio, while the context is open.

    If a single `StoreError` ends the context, it is raised without the exception groups around it.
    """
    try:
        async with trio_asyncio.open_loop() as loop:
            _reschedule_without_queue(loop)
            loop.set_exception_handler(_ignore_abandoned_futures)
            yield Driver(loop)
    except BaseExceptionGroup as group:
        only: BaseException = group
        while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
            only = only.exceptions[0]
        if isinstance(only, StoreError):
            raise only from only.__cause__  # noqa: ASYNC123  # the groups add nothing to it
        raise
