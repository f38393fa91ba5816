"""One server process, from its first service up to its last one down.

The root nursery is here. Services come up in order, each truly working before the next; a crash of any ends
the process. SIGTERM or SIGINT takes them down in the other order, within a bound; a second signal ends at
once. It decides nothing about requests.
"""

import signal
from collections.abc import AsyncIterator, Callable

import trio
from pydantic import ValidationError

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresLog, PostgresOptions
from server import logs
from server.config import BadSettings, Settings
from server.database import Database, StartStopped, open_database
from server.host import Host, Listener, listen
from server.host.limits import raise_file_limit
from server.runtime.drain import Drain
from server.runtime.runtime import Runtime, open_runtime
from server.upstream import Limits, OpenAISettings, Upstreams
from server.web.app import build

log = logs.get("serve")

# What each part of the way down may take of the stop bound: streams end within the first share, runs within
# the second; then connections are closed, and the embedded database stopped, with a share each.
WINDOW_SHARE, RUNS_SHARE, DRAIN_SHARE, CLOSE_SHARE, DATABASE_SHARE = 0.2, 0.5, 0.6, 0.15, 0.2
SAME_SIGNAL_SECONDS = 0.3  # make, or a script, passes on what the terminal has told the server already
WEBSOCKET_BYTES = 1_048_576


async def serve(settings: Settings, tell: Callable[[str], None]) -> None:
    """Serves until told to stop. `tell` gets one line when requests are taken.

    Raises `BadSettings`, `CannotListen`, `EmbeddedError`, `NotMigrated`, `StoreUnavailable`, `Refused` at the
    start.
    """
    upstreams = _upstreams(settings)
    listener = listen(settings.bind, settings.stall_timeout)
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as root:
            root.start_soon(_heed, signals, stop, root.cancel_scope)
            try:
                bound = settings.stop_timeout * DATABASE_SHARE
                async with open_database(settings, stop=stop, stop_seconds=bound) as database:
                    await _serve(settings, database, upstreams, listener, stop, tell)
            except StartStopped:
                log.info("stopped while starting")
            root.cancel_scope.cancel()


async def _heed(signals: AsyncIterator[int], stop: trio.Event, everything: trio.CancelScope) -> None:
    heard_at = 0.0
    async for _ in signals:
        if not stop.is_set():
            heard_at = trio.current_time()
            stop.set()
        elif trio.current_time() - heard_at > SAME_SIGNAL_SECONDS:
            log.warning("ended at once by a second signal")
            everything.cancel()
            return


async def _serve(
    settings: Settings,
    database: Database,
    upstreams: Upstreams,
    listener: Listener,
    stop: trio.Event,
    tell: Callable[[str], None],
) -> None:
    postgres = PostgresLog(
        PostgresOptions(database.url, database.owner_url, program="tokentape", patience=settings.store_patience)
    )
    drain = Drain(raise_file_limit(settings.max_streams), settings.stream_max_seconds)
    async with (
        EventStore(postgres, StoreOptions(patience=settings.store_patience)).open() as store,
        open_runtime(store, upstreams, drain, most_runs=settings.max_runs) as runtime,
        trio.open_nursery() as nursery,
    ):
        host = Host(build(runtime, settings), listener, WEBSOCKET_BYTES)
        await nursery.start(host.serve)
        tell(listener.url)
        log.info("ready", url=listener.url, worker=runtime.supervisor.worker)
        await stop.wait()
        await _take_down(runtime, settings.stop_timeout)
        await host.close(settings.stop_timeout * CLOSE_SHARE)
        nursery.cancel_scope.cancel()


async def _take_down(runtime: Runtime, bound: float) -> None:
    """Streams end, spread over a window; runs end by themselves, or as `server_stopped`."""
    log.info("stopping", streams=len(runtime.drain), runs=len(runtime.supervisor.runs))
    runtime.drain.begin(bound * WINDOW_SHARE)
    with trio.move_on_after(bound * DRAIN_SHARE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.supervisor.finish, bound * RUNS_SHARE)
            nursery.start_soon(runtime.drain.empty)


def _upstreams(settings: Settings) -> Upstreams:
    if not {"openai_base_url", "openai_api_key"} & settings.model_fields_set:
        return Upstreams(openai=None)
    try:
        openai = OpenAISettings(
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            limits=Limits(idle=settings.upstream_stall),
        )
    except ValidationError as error:
        said = "; ".join(f"OPENAI_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        raise BadSettings(said) from None
    return Upstreams(openai=openai)
