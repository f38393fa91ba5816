"""One server process, from its first service up to its last one down.

The root nursery is here. Services come up in order, each truly working before the next; a crash of any ends
the process. SIGTERM or SIGINT takes them down in the other order, within a bound; a second signal ends at
once. It decides nothing about requests.
"""

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresLog, PostgresOptions
from server import logs
from server.config import Settings
from server.database import Database, open_database
from server.listening import Listener, listen
from server.runtime.drain import Drain
from server.runtime.runtime import Runtime, open_runtime
from server.upstream import Limits, OpenAISettings, Upstreams
from server.web.app import build

log = logs.get("serve")

WINDOW_SHARE, RUNS_SHARE, DRAIN_SHARE = 0.2, 0.5, 0.7
CLOSE_SECONDS = 0.5
IDLE_CONNECTION_SECONDS = 20
WEBSOCKET_BYTES, WEBSOCKET_PING_SECONDS = 1_048_576, 20.0


async def serve(settings: Settings, tell: Callable[[str], None]) -> None:
    """Serves until told to stop. `tell` gets one line when requests are taken.

    Raises `CannotListen`, `EmbeddedError`, `NotMigrated`, `StoreUnavailable`, `Refused` at the start.
    """
    listener = listen(settings.bind, settings.stall_timeout)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as root:
            stop = trio.Event()
            root.start_soon(_heed, signals, stop, root.cancel_scope)
            async with open_database(settings) as database:
                await _serve(settings, database, listener, stop, tell)
            root.cancel_scope.cancel()


async def _heed(signals: AsyncIterator[int], stop: trio.Event, everything: trio.CancelScope) -> None:
    async for _ in signals:
        if stop.is_set():
            log.warning("ended at once by a second signal")
            everything.cancel()
            return
        stop.set()


async def _serve(
    settings: Settings,
    database: Database,
    listener: Listener,
    stop: trio.Event,
    tell: Callable[[str], None],
) -> None:
    postgres = PostgresLog(
        PostgresOptions(database.url, database.owner_url, program="tokentape", patience=settings.store_patience)
    )
    drain = Drain(settings.max_streams, settings.stream_max_seconds)
    upstreams = _upstreams(settings)
    async with (
        EventStore(postgres, StoreOptions(patience=settings.store_patience)).open() as store,
        open_runtime(store, upstreams, drain, most_runs=settings.max_runs) as runtime,
        trio.open_nursery() as nursery,
    ):
        closing, over = trio.Event(), trio.Event()
        web = partial(hypercorn_serve, build(runtime, settings), _config(listener), shutdown_trigger=closing.wait)
        await nursery.start(_web, web, over)
        tell(listener.url)
        log.info("ready", url=listener.url, worker=runtime.supervisor.worker)
        await stop.wait()
        await _take_down(runtime, settings.stop_timeout)
        closing.set()
        await _cut(listener, over)
        nursery.cancel_scope.cancel()


async def _web(
    web: Callable[..., Awaitable[None]], over: trio.Event, *, task_status: trio.TaskStatus[object]
) -> None:
    await web(task_status=task_status)
    over.set()


async def _take_down(runtime: Runtime, bound: float) -> None:
    """Streams end, spread over a window; runs end by themselves, or as `server_stopped`."""
    log.info("stopping", streams=len(runtime.drain), runs=len(runtime.supervisor.runs))
    runtime.drain.begin(bound * WINDOW_SHARE)
    with trio.move_on_after(bound * DRAIN_SHARE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.supervisor.finish, bound * RUNS_SHARE)
            nursery.start_soon(runtime.drain.empty)


async def _cut(listener: Listener, over: trio.Event) -> None:
    """Hypercorn would wait for connections that take no byte; the rest of the time is not theirs."""
    with trio.move_on_after(2 * CLOSE_SECONDS):
        await over.wait()
    if not over.is_set():
        listener.cut_connections()
    with trio.move_on_after(2 * CLOSE_SECONDS):
        await over.wait()


def _config(listener: Listener) -> Config:
    config = Config()
    config.bind = [f"fd://{listener.sock.detach()}"]  # from here on hypercorn's, which closes it
    config.accesslog = None  # a query may hold a key
    config.errorlog = logging.getLogger("hypercorn")
    config.include_server_header = False
    config.graceful_timeout = CLOSE_SECONDS
    # Also the time a client has for its request's head: who sends it byte by byte is cut off.
    config.keep_alive_timeout = IDLE_CONNECTION_SECONDS
    config.keep_alive_max_requests = 100_000
    config.websocket_max_message_size = WEBSOCKET_BYTES
    config.websocket_ping_interval = WEBSOCKET_PING_SECONDS
    return config


def _upstreams(settings: Settings) -> Upstreams:
    named = {"openai_base_url", "openai_api_key"} & settings.model_fields_set
    if not named:
        return Upstreams(openai=None)
    return Upstreams(
        openai=OpenAISettings(
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            limits=Limits(idle=settings.upstream_stall),
        )
    )
