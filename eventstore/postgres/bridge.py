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

# Before anything is sent: a value that the driver cannot write down, such as an unpaired surrogate or an
# integer of more than 64 bits. It is an InterfaceError too, as a lost connection is; and not
# `asyncpg.DataError`, which is the server's.
_UNSENDABLE = asyncpg.exceptions._base.DataError

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
        super().__init__(f"{message} (SQLSTATE {sqlstate})" if sqlstate else message)
        self.sqlstate = sqlstate


class Unfit(Refused):
    """What is at this address cannot hold the log, or not over this way. Whoever chose the address is to blame."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "")


class Bridge:
    """Where asyncio code runs. Made by `open_bridge`."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.own_pids: set[int] = set()  # backends of the connections that `mark_own` was called on

    async def run(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """Runs one asyncio call and waits for it, with the driver's errors translated."""
        return await self._translated(trio_asyncio.aio_as_trio(call, loop=self._loop)(*args, **options))

    async def step(self, coroutine: Coroutine[Any, Any, T], cut: Callable[[], None]) -> T:
        """Like `run`, for the driver's calls that only wait for its own futures: on this very task.

        An asyncio task for each statement, woken through the loop's queue, took half of its time. `cut` ends the
        connection: that is how a cancelled call ends.
        """
        return await self._translated(_step(coroutine, cut))

    async def _translated(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except _UNSENDABLE as error:
            raise Refused(f"the database driver cannot send a value: {error}", "22000") from error
        except asyncpg.exceptions.ClientConfigurationError as error:
            raise Unfit(f"the database's address cannot be used: {error}") from error
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if "unsupported startup parameter" in str(error):
                raise Unfit(f"a pooler in front of the database takes no such parameter: {error}") from error
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
        self,
        dsn: str,
        settings: Mapping[str, str],
        *,
        timeout: float,
        command_timeout: float,
        host: tuple[str, int] | None = None,
    ) -> "Connection":
        """A new connection, to `host` (name, port) rather than to the URL's; `settings` go with the first packet.

        Raises `Lost` or `Refused` when there is none to be had.
        """
        place = {} if host is None else {"host": host[0], "port": host[1]}
        raw = await self.run(
            asyncpg.connect,
            dsn,
            server_settings=dict(settings),
            timeout=timeout,
            target_session_attrs="any",  # which server will do is judged by whoever connects
            **place,
        )
        return Connection(self, raw, command_timeout)


class Connection:
    """One connection. Used by one task at a time. `ended` is set when it is gone, whoever ended it."""

    def __init__(self, bridge: Bridge, raw: "asyncpg.Connection[Row]", timeout: float) -> None:
        self._bridge = bridge
        self._raw = raw
        self._timeout = timeout
        self.ended = trio.Event()
        self.pid: int = raw.get_server_pid()
        """The backend's, as notifications bear it. Whoever finds that a pooler is in between sets it right."""
        raw.add_termination_listener(self._note_end)

    def _note_end(self, _: Any) -> None:
        self.ended.set()

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """All rows of one statement, in one round trip and one implicit transaction."""
        # Not the driver's own timer: each would stay in the loop's queue until it is due, answered or not.
        with trio.move_on_after(self._timeout):
            return await self._bridge.step(self._raw.fetch(sql, *values), self._raw.terminate)
        raise Lost(f"the database did not answer within {self._timeout:g} s")

    @property
    def server_pid(self) -> int:
        """The backend that greeted us. A pooler greets with a number of its own."""
        return self._raw.get_server_pid()

    @property
    def raw(self) -> "asyncpg.Connection[Row]":
        """The driver's own, for a library that brings its statements (migrations)."""
        return self._raw

    async def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        """Calls `hear(payload)` at each notification on the channel, but for those sent over this bridge."""
        own = self._bridge.own_pids

        def receive(_: Any, pid: int, __: str, payload: object) -> None:
            if pid not in own:
                hear(str(payload))

        await self._bridge.run(self._raw.add_listener, channel, receive)

    def mark_own(self) -> None:
        """Lets `listen` skip what is sent through this connection: its hearers knew it before."""
        own, pid = self._bridge.own_pids, self.pid
        if pid not in own:
            own.add(pid)
            self._raw.add_termination_listener(lambda _: own.discard(pid))

    def abort(self) -> None:
        """Closes the socket, without a word to the server and without waiting."""
        self._raw.terminate()


class _Wake:
    """A future's callback that wakes a trio task. It may be called at any time, also inside of the driver."""

    __slots__ = ("_task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task

    def __call__(self, _: Any) -> None:
        trio.lowlevel.reschedule(self._task)


def _call_wakes_at_once(loop: Any) -> None:
    """Lets a future's end wake its task directly, not through the loop's queue.

    asyncio calls the callbacks of a future by way of `call_soon`, which here is a memory channel and another task:
    a turn of trio's scheduler more on every token's way. Waking only puts a task into the next batch, so nothing
    of it runs inside of the driver.
    """
    call_soon = loop.call_soon

    def soon(callback: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if type(callback) is _Wake:
            callback(*args)
            return None
        return call_soon(callback, *args, **options)

    loop.call_soon = soon


async def _step(coroutine: Coroutine[Any, Any, T], cut: Callable[[], None]) -> T:
    """Runs an asyncio coroutine that awaits nothing but futures, by taking each future's end as its next step."""
    task = trio.lowlevel.current_task()
    cancelled: Callable[[], Any] | None = None
    future: asyncio.Future[Any]
    wake = _Wake(task)

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        # The driver would ask the server to cancel the statement; the socket is closed instead, and its end
        # wakes us. For 1. an append commits on the primary and waits for a synchronous standby; 2. a cancel
        # request ends that wait as if it had been answered; 3. the same append, sent again, is found in the log
        # and acknowledged, and its event is shown, though the standby lacks it. So the wait goes on, and until
        # it is over nobody sees the event.
        nonlocal cancelled
        cancelled = raise_cancel
        cut()
        if not future.done():
            future.cancel()
        return trio.lowlevel.Abort.FAILED

    try:
        while cancelled is None:
            future = coroutine.send(None)
            future._asyncio_future_blocking = False  # what a task says to a future that it will wait for
            future.add_done_callback(wake)
            await trio.lowlevel.wait_task_rescheduled(abort)
    except StopIteration as end:
        result: T = end.value
        return result
    if not future.cancelled():
        future.exception()  # looked at, or asyncio complains of it
    coroutine.close()  # its connection is gone, whatever the future said at last
    cancelled()
    raise AssertionError("a cancelled task has been cancelled")  # what trio has given us raises


@asynccontextmanager
async def open_bridge() -> AsyncIterator[Bridge]:
    """The event loop that asyncpg needs, inside trio, for as long as the context lasts.

    A `StoreError` that ends it leaves as itself, without the groups that nurseries wrap it in.
    """
    try:
        async with trio_asyncio.open_loop() as loop:
            _call_wakes_at_once(loop)
            yield Bridge(loop)
    except BaseExceptionGroup as group:
        only: BaseException = group
        while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
            only = only.exceptions[0]
        if isinstance(only, StoreError):
            raise only from only.__cause__  # noqa: ASYNC123  # its groups say nothing: it is what happened
        raise
