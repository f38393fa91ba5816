"""One server process, from its first service up to its last one down.

The root nursery is here. Services come up in order, each truly working before the next; a crash of any ends
the process. SIGTERM or SIGINT takes them down in the other order, within a bound; a second signal ends at
once. It decides nothing about requests.
"""

import datetime
import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresLog, PostgresOptions
from server import collector, logs
from server.config import BadSettings, Settings
from server.config.public_url import PublicUrl
from server.database import Database, StartStopped, open_database
from server.embedded.folder import default_data_dir
from server.http import (
    BadCertificate,
    Host,
    HttpOptions,
    Listener,
    Tls,
    listen,
    local_certificate,
    open_context,
    raise_file_limit,
)
from server.metrics import Metrics
from server.outages import StoreWatch
from server.providers import upstreams_from
from server.runtime.runtime import Runtime, open_runtime
from server.runtime.stream_drain import Drain
from server.upstream import Upstreams
from server.web.app import build
from server.web.edge.problems import encode
from server.webhooks.options import WebhookOptions, parse_ports
from server.workflows import BadModule, Registry, load

log = logs.get("serve")

# What each part of the way down may take of the stop bound: streams end within the first share, runs within
# the second; then connections are closed, and the embedded database stopped, with a share each.
WINDOW_SHARE, RUNS_SHARE, DRAIN_SHARE, CLOSE_SHARE, DATABASE_SHARE = 0.2, 0.5, 0.6, 0.15, 0.2
SAME_SIGNAL_SECONDS = 0.3  # make, or a script, passes on what the terminal has told the server already
WEBSOCKET_BYTES = 1_048_576


async def serve(settings: Settings, tell: Callable[[Listener], None]) -> None:
    """Serves until told to stop. `tell` is told where, when requests are taken.

    Raises `BadSettings`, `CannotListen`, `EmbeddedError`, `NotMigrated`, `StoreUnavailable`, `Refused` at the
    start.
    """
    upstreams = upstreams_from(settings, os.environ)
    registry = _registry(settings)
    listener = listen(settings.bind, settings.stall_timeout, await _tls(settings))
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as root:
            root.start_soon(_heed, signals, stop, root.cancel_scope)
            try:
                bound = settings.stop_timeout * DATABASE_SHARE
                async with open_database(
                    settings, migrate=settings.migrate, stop=stop, stop_seconds=bound
                ) as database:
                    await _serve(settings, database, upstreams, registry, listener, stop, tell)
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
    registry: Registry,
    listener: Listener,
    stop: trio.Event,
    tell: Callable[[Listener], None],
) -> None:
    postgres = PostgresLog(
        PostgresOptions(database.url, database.owner_url, program="tokentape", patience=settings.store_patience)
    )
    metrics = Metrics()
    public = PublicUrl(settings.public_url)
    watched = StoreOptions(patience=settings.store_patience, observer=StoreWatch(metrics))
    connections = raise_file_limit(settings.connections)
    drain = Drain(min(settings.max_streams, connections), settings.stream_max_seconds)
    async with (
        EventStore(postgres, watched).open() as store,
        open_runtime(
            store,
            upstreams,
            drain,
            most_runs=settings.max_runs,
            metrics=metrics,
            registry=registry,
            webhooks=WebhookOptions(
                settings.webhook_secret,
                settings.webhook_allow_private,
                parse_ports(settings.webhook_ports),
                public=public,
            ),
            ephemeral_seconds=settings.ephemeral_seconds,
            public=public,
        ) as runtime,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(upstreams.run)
        host = Host(build(runtime, settings), listener, _http_options(settings, connections))
        await nursery.start(host.serve)
        collector.settle()
        tell(listener)
        log.info("ready", url=listener.url, worker=runtime.supervisor.worker)
        await stop.wait()
        await _take_down(runtime, settings.stop_timeout)
        await host.close(settings.stop_timeout * CLOSE_SHARE)
        nursery.cancel_scope.cancel()


def _http_options(settings: Settings, connections: int) -> HttpOptions:
    return HttpOptions(
        websocket_bytes=WEBSOCKET_BYTES,
        keep_alive=settings.keep_alive,
        stall_timeout=settings.stall_timeout,
        max_connections=connections,
        max_connections_per_address=settings.max_connections_per_address,
        trusted_proxies=tuple(ipaddress.ip_network(network) for network in settings.trusted_proxies),
        unsent_bytes=settings.max_unsent,
        encode_problem=partial(encode, public=PublicUrl(settings.public_url)),
    )


async def _take_down(runtime: Runtime, bound: float) -> None:
    """Streams end, spread over a window; runs end by themselves, or as `server_stopped`."""
    log.info("stopping", streams=len(runtime.drain), runs=len(runtime.supervisor.runs))
    runtime.drain.begin(bound * WINDOW_SHARE)
    with trio.move_on_after(bound * DRAIN_SHARE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.supervisor.finish, bound * RUNS_SHARE)
            nursery.start_soon(runtime.drain.empty)


def _registry(settings: Settings) -> Registry:
    try:
        registry = load(settings.workflows)
    except BadModule as error:
        raise BadSettings(f"TOKENTAPE_WORKFLOWS: {error}") from None
    if settings.workflows:
        log.info("workflows loaded", workflows=sorted(registry.workflows), tools=sorted(registry.tools))
    return registry


async def _tls(settings: Settings) -> Tls | None:
    try:
        if settings.tls:
            folder = (settings.data_dir or default_data_dir()).expanduser().absolute() / "tls"
            names = (settings.bind.rpartition(":")[0], *settings.allowed_hosts)
            now = datetime.datetime.now(datetime.UTC)
            own = await trio.to_thread.run_sync(local_certificate, folder, names, now)
            return Tls(open_context(own.server, own.server, ("certificate", "key")), own.authority)
        if settings.certfile is not None and settings.keyfile is not None:
            called = ("TOKENTAPE_CERTFILE", "TOKENTAPE_KEYFILE")
            return Tls(open_context(settings.certfile, settings.keyfile, called))
    except BadCertificate as error:
        raise BadSettings(str(error)) from None
    return None
