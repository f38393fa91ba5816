"""The only file in which asyncio lives: asyncpg connections for trio code, through trio-asyncio.

About six calls: open the bridge, connect, fetch, listen, wait for the end, close. Every exception of the
driver is translated here, once, with its cause kept: `Lost` (the connection or the server is gone; what was
under way may or may not have happened) or `Refused` (the database answered no). It knows no SQL.
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

# SQLSTATEs that say "not now" or "not here": the same statement, sent again, may well succeed.
# 08 connection, 53 out of resources, 57 operator intervention (restart, cancel), 40 rollback (deadlock),
# 25006 this server has become a read-only replica.
_PASSING = ("08", "53", "57", "40", "25006")

_GONE = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, EOFError)


class Lost(StoreUnavailable):
    """The connection is gone, or the server cannot serve now. Connect again, send again."""

    kind = "lost"


class Locked(Lost):
    """Somebody holds a row for too long. The same statement may succeed later; without that row, now."""

    kind = "locked"


class Refused(StoreError):
    """The database understood and said no. Whoever wrote the statement or its values is to blame."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class Bridge:
    """Where asyncio code runs. Made by `open_bridge`."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.own_pids: set[int] = set()  # backends of the connections that `mark_own` was called on

    async def run(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """Runs one asyncio call and waits for it, with the driver's errors translated."""
        return await self._translated(trio_asyncio.aio_as_trio(call, loop=self._loop)(*args, **options))

    async def step(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Like `run`, for the driver's calls that only wait for its own futures: on this very task.

        An asyncio task for each statement, woken through the loop's queue, took half of its time.
        """
        return await self._translated(_step(coroutine))

    async def _translated(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if state == "55P03":
                raise Locked(f"a row is locked for too long: {error}") from error
            if state.startswith(_PASSING):
                raise Lost(f"the database is not available: {error}") from error
            raise Refused(str(error), state) from error
        # asyncio's CancelledError is no cancellation here (that is trio's) but how the driver's own tasks end.
        # InternalClientError: the server's goodbye met the next statement on its way out.
        except (*_GONE, asyncio.CancelledError) as error:
            raise Lost(f"the database connection failed: {error!r}") from error  # noqa: ASYNC104
        return result

    async def connect(
        self, dsn: str, settings: Mapping[str, str], *, timeout: float, command_timeout: float
    ) -> "Connection":
        """A new connection; `Lost` or `Refused` when there is none to be had."""
        raw = await self.run(
            asyncpg.connect,
            dsn,
            server_settings=dict(settings),
            timeout=timeout,
        )
        return Connection(self, raw, command_timeout)


class Connection:
    """One connection. Used by one task at a time. `ended` is set when it is gone, whoever ended it."""

    def __init__(self, bridge: Bridge, raw: "asyncpg.Connection[Row]", timeout: float) -> None:
        self._bridge = bridge
        self._raw = raw
        self._timeout = timeout
        self.ended = trio.Event()
        raw.add_termination_listener(self._note_end)

    def _note_end(self, _: Any) -> None:
        self.ended.set()

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """All rows of one statement, in one round trip and one implicit transaction."""
        # Not the driver's own timer: each would stay in the loop's queue until it is due, answered or not.
        with trio.move_on_after(self._timeout):
            return await self._bridge.step(self._raw.fetch(sql, *values))
        raise Lost(f"the database did not answer within {self._timeout:g} s")

    async def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        """Calls `hear(payload)` at each notification on the channel, but for those sent over this bridge."""
        own = self._bridge.own_pids

        def receive(_: Any, pid: int, __: str, payload: object) -> None:
            if pid not in own:
                hear(str(payload))

        await self._bridge.run(self._raw.add_listener, channel, receive)

    def mark_own(self) -> None:
        """Lets `listen` skip what is sent through this connection: its hearers knew it before."""
        own, pid = self._bridge.own_pids, self._raw.get_server_pid()
        if pid not in own:
            own.add(pid)
            self._raw.add_termination_listener(lambda _: own.discard(pid))

    def abort(self) -> None:
        """Closes the socket, without a word to the server and without waiting."""
        self._raw.terminate()


async def _step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs an asyncio coroutine that awaits nothing but futures, by taking each future's end as its next step."""
    task = trio.lowlevel.current_task()
    cancelled: Callable[[], Any] | None = None
    future: asyncio.Future[Any]

    def wake(_: Any) -> None:
        trio.lowlevel.reschedule(task)

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        # Its end wakes us: the driver tells the server first that nobody waits for the answer any more.
        nonlocal cancelled
        cancelled = raise_cancel
        future.cancel()
        return trio.lowlevel.Abort.FAILED

    try:
        while True:
            future = coroutine.send(None)
            future._asyncio_future_blocking = False  # what a task says to a future that it will wait for
            future.add_done_callback(wake)
            await trio.lowlevel.wait_task_rescheduled(abort)
    except StopIteration as end:
        result: T = end.value
        return result
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled()
        raise


@asynccontextmanager
async def open_bridge() -> AsyncIterator[Bridge]:
    """The event loop that asyncpg needs, inside trio, for as long as the context lasts.

    A `StoreError` that ends it leaves as itself, without the groups that nurseries wrap it in.
    """
    try:
        async with trio_asyncio.open_loop() as loop:
            yield Bridge(loop)
    except BaseExceptionGroup as group:
        only: BaseException = group
        while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
            only = only.exceptions[0]
        if isinstance(only, StoreError):
            raise only from only.__cause__  # noqa: ASYNC123  # its groups say nothing: it is what happened
        raise
