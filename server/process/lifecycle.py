"""One server process, from the start of its first service to the stop of its last.

Owns the root nursery. Services start in order, each working before the next begins; a crash of any of them ends
the process. SIGTERM or SIGINT stops them in reverse order within a bound; a second signal ends the process at
once. It must not know requests.
"""

import datetime
import gc
import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresBackend, PostgresOptions
from server.auth.postgres_auth_store import PostgresAuthStore
from server.config import BadSettings, Settings
from server.config.price_table import load_prices
from server.config.web_addresses import PublicUrl
from server.embedded_postgres import default_data_dir
from server.files.postgres_file_store import PostgresFileStore
from server.http import (
    BadCertificate,
    HttpOptions,
    HttpServer,
    Listener,
    Tls,
    listen,
    local_certificate,
    open_context,
    raise_file_limit,
)
from server.observability import Metrics, logs
from server.process.authentication import check_open_port, make_authenticator, make_rate_limiter
from server.process.database import Database, StartStopped, StoreObserver, open_database
from server.providers import ProviderRegistry
from server.providers.registry import providers_from
from server.runtime.conversation_service import ConversationService, open_conversation_service
from server.runtime.stream_drain import StreamDrain
from server.web.app import build
from server.web.edge.problem_json import encode
from server.webhooks.retry_schedule import WebhookOptions
from server.webhooks.target_address import parse_ports
from server.workflows import BadModule, Registry, load

GC_THRESHOLDS = (50_000, 20, 100)
"""As `gc.set_threshold` takes them: allocations between two collections of the youngest generation, and so on."""


def tune_garbage_collector() -> None:
    """Makes Python's cycle collector run seldom, and never over what exists now; call it when all services run.

    With Python's defaults the collector walks over every object of the process every few hundred allocations: with
    a hundred answers under way it held all of them up for a tenth of a second, several times a minute. Hardly
    anything here is a cycle: tasks and exceptions make a few.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


log = logs.get("serve")

# The share of TOKENTAPE_STOP_TIMEOUT that each step of a stop may take, in order: streams are told to end, spread
# over a window; runs end; streams and runs have ended; connections close; the embedded database stops.
STREAMS_WINDOW, RUNS_SHARE, DRAIN_SHARE, CLOSE_SHARE, DATABASE_SHARE = 0.2, 0.5, 0.6, 0.15, 0.2
SAME_SIGNAL_SECONDS = 0.3
"""A second signal within this time is the first one again: Ctrl-C reaches the server from the terminal and from
make."""
WEBSOCKET_BYTES = 1_048_576


async def serve(settings: Settings, tell: Callable[[Listener], None]) -> None:
    """Serves until a signal stops it. `tell` is called with the listener once requests are accepted.

    Raises at the start, each for the person who starts the server: `BadSettings`, `CannotListen`, `EmbeddedError`,
    `NotMigrated`, `StoreUnavailable`, `DatabaseRefused`.
    """
    providers = providers_from(settings, os.environ)
    registry = _load_workflows(settings)
    listener = listen(settings.bind, settings.stall_timeout, await _open_tls(settings))
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as root:
            root.start_soon(_stop_on_signal, signals, stop, root.cancel_scope)
            try:
                bound = settings.stop_timeout * DATABASE_SHARE
                async with open_database(
                    settings, migrate=settings.migrate, stop=stop, stop_seconds=bound
                ) as database:
                    await _run_services(settings, database, providers, registry, listener, stop, tell)
            except StartStopped:
                log.info("stopped while starting")
            root.cancel_scope.cancel()


async def _stop_on_signal(signals: AsyncIterator[int], stop: trio.Event, process: trio.CancelScope) -> None:
    first_at = 0.0
    async for _ in signals:
        if not stop.is_set():
            first_at = trio.current_time()
            stop.set()
        elif trio.current_time() - first_at > SAME_SIGNAL_SECONDS:
            log.warning("ended at once by a second signal")
            process.cancel()
            return


async def _run_services(
    settings: Settings,
    database: Database,
    providers: ProviderRegistry,
    registry: Registry,
    listener: Listener,
    stop: trio.Event,
    tell: Callable[[Listener], None],
) -> None:
    postgres = PostgresBackend(
        PostgresOptions(
            database.url, database.owner_url, program="tokentape", call_timeout=settings.store_patience
        )
    )
    credentials = PostgresAuthStore(database.url, call_timeout=settings.store_patience)
    files = PostgresFileStore(database.url, call_timeout=settings.store_patience)
    authenticator = await make_authenticator(settings, credentials)
    metrics = Metrics()
    limiter = make_rate_limiter(settings, credentials, metrics)
    public = PublicUrl(settings.public_url)
    prices = load_prices(settings.prices)
    options = StoreOptions(call_timeout=settings.store_patience, observer=StoreObserver(metrics))
    connections = raise_file_limit(settings.connections)
    drain = StreamDrain(min(settings.max_streams, connections), settings.stream_max_seconds)
    async with (
        EventStore(postgres, options).open() as store,
        credentials.open(),
        files.open(),
        authenticator.open(),
        limiter.open(),
    ):
        check_open_port(settings, authenticator)
        async with (
            open_conversation_service(
                store,
                providers,
                drain,
                max_runs=settings.max_runs,
                metrics=metrics,
                registry=registry,
                webhooks=WebhookOptions(
                    settings.webhook_secret,
                    settings.webhook_allow_private,
                    parse_ports(settings.webhook_ports),
                    settings.webhook_signing_keys,
                    public=public,
                ),
                ephemeral_seconds=settings.ephemeral_seconds,
                public=public,
                prices=prices,
                limits=limiter,
                files=files,
            ) as runtime,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(providers.run)
            app = build(runtime, settings, authenticator, limiter)
            host = HttpServer(app, listener, _http_options(settings, connections))
            await nursery.start(host.serve)
            tune_garbage_collector()
            tell(listener)
            log.info("ready", url=listener.url, worker=runtime.supervisor.worker)
            await stop.wait()
            await _stop_streams_and_runs(runtime, settings.stop_timeout)
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


async def _stop_streams_and_runs(runtime: ConversationService, bound: float) -> None:
    """Ends the streams, spread over a window, and waits for the runs; one that takes too long ends as
    interrupted."""
    log.info("stopping", streams=len(runtime.drain), runs=len(runtime.supervisor.runs))
    runtime.drain.begin(bound * STREAMS_WINDOW)
    with trio.move_on_after(bound * DRAIN_SHARE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.supervisor.finish, bound * RUNS_SHARE)
            nursery.start_soon(runtime.drain.empty)


def _load_workflows(settings: Settings) -> Registry:
    try:
        registry = load(settings.workflows)
    except BadModule as error:
        raise BadSettings(f"TOKENTAPE_WORKFLOWS: {error}") from None
    if settings.workflows:
        log.info("workflows loaded", workflows=sorted(registry.workflows), tools=sorted(registry.tools))
    return registry


async def _open_tls(settings: Settings) -> Tls | None:
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
