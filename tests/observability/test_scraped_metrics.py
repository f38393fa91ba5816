"""The metrics page of a real server: each figure changes when the event itself happens, over sockets and
Postgres.
"""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.auth.authenticator import Authenticator
from server.auth.limits.limit_list import LimitList
from server.auth.limits.rate_limiter import RateLimiter
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.principal import ANONYMOUS
from server.web.edge.authorization import Grant
from server.web.edge.http_messages import StreamResponse
from server.web.transports.log_reader import find_conversation
from server.web.transports.read_params import Form
from server.web.transports.sse_ndjson import open_stream
from tests.clients.api import Api
from tests.clients.http1 import Connection
from tests.clients.websocket import talk
from tests.faults.readers import ask, wait_closed
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import running
from tests.observability.scraping import scraping
from tests.providers.fake_provider import FakeProvider
from tests.runtime.runtime_process import process, start


async def test_run_and_commit_metrics(database: TestDatabase) -> None:
    async with running(database.app_url) as server, scraping(server) as scraper, Api.open(server.port) as api:
        await api.finished(await api.generate(tokens=200, rate=0))
        scrape = await scraper.until("run_seconds_count", 1, provider="demo", outcome="completed")
        assert scrape.get("tokens_total", provider="demo") == 200
        assert scrape.get("time_to_first_token_seconds_count") == 1
        assert scrape.get("time_between_tokens_seconds_count") > 0
        assert scrape.get("commit_events_sum") == 200 + 4, "and the conversation, the request, the start, the end"
        commits = scrape.get("commit_seconds_count")
        assert scrape.get("commit_appends_count") == scrape.get("commit_events_count") == commits
        assert scrape.get("commit_appends_sum") <= scrape.get("commit_events_sum")
        assert scrape.get("store_up") == 1
        assert scrape.get("store_outages_total") == 0


async def test_running_runs(database: TestDatabase) -> None:
    async with running(database.app_url) as server, scraping(server) as scraper, Api.open(server.port) as api:
        assert (await scraper.scrape()).get("runs_running") == 0
        async with api.busy(await api.conversation()):
            assert (await scraper.scrape()).get("runs_running") == 1
        scrape = await scraper.until("runs_running", 0)
        assert scrape.get("run_seconds_count", outcome="cancelled") == 1


async def test_readers_by_transport(database: TestDatabase) -> None:
    """Each counts while it is open."""
    async with running(database.app_url) as server, scraping(server) as scraper, Api.open(server.port) as api:
        log = await api.conversation()
        for transport in ("sse", "ndjson"):
            async with await Connection.open(server.port) as connection:
                await connection.ask("GET", f"{log}/events?format={transport}")
                await connection.receive()
                scrape = await scraper.until("readers", 1, transport=transport)
                assert scrape.get("readers") == 1
            await scraper.until("readers", 0, transport=transport)
        async with talk(server.port, log) as connection:
            await connection.until("caught_up")
            assert (await scraper.scrape()).get("readers", transport="websocket") == 1
        await scraper.until("readers", 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(api.get, f"{log}/events", after=1, wait=20))
            await scraper.until("readers", 1, transport="long_poll")
            await api.message(log)
        await scraper.until("readers", 0)


async def test_resumes_and_missed_events(database: TestDatabase) -> None:
    """A first read is no resume, neither is `now`; a resuming client counts with the events it missed."""
    async with running(database.app_url) as server, scraping(server) as scraper, Api.open(server.port) as api:
        log = await api.conversation()
        for _ in range(9):
            await api.message(log)
        for transport in ("sse", "ndjson"):
            for after in (0, "now", 4, 10):
                async with await Connection.open(server.port) as connection:
                    await connection.ask("GET", f"{log}/events?format={transport}&after={after}")
                    await connection.receive()
        for after in (0, "now", 7):
            async with talk(server.port, log, after) as connection:
                await connection.until("caught_up")
        await api.get(f"{log}/events", after=3)  # not held: a page is a page
        await api.get(f"{log}/events", after=3, wait=1)
        scrape = await scraper.scrape()
        told = {
            transport: tuple(
                int(scrape.get(f"resume_behind_events_{what}", transport=transport)) for what in ("count", "sum")
            )
            for transport in ("sse", "ndjson", "websocket", "long_poll")
        }
        assert told == {"sse": (2, 6), "ndjson": (2, 6), "websocket": (1, 3), "long_poll": (1, 7)}


async def test_resync_is_a_resume(database: TestDatabase) -> None:
    async with running(database.app_url) as server, scraping(server) as scraper, Api.open(server.port) as api:
        log = await api.conversation()
        await api.message(log)
        async with talk(server.port, log) as connection:
            await connection.until("caught_up")
            await connection.send({"id": "r", "do": "resync", "after": 1})
            await connection.until("reply")
            scrape = await scraper.scrape()
        assert scrape.get("resume_behind_events_sum", transport="websocket") == 1


async def test_upstream_failures_and_repaired_characters(database: TestDatabase, nursery: trio.Nursery) -> None:
    fake = await FakeProvider.listen()
    nursery.start_soon(fake.serve)
    env = {"OPENAI_BASE_URL": fake.base_url, "ANTHROPIC_BASE_URL": fake.root_url}
    async with running(database.app_url, env) as server, scraping(server) as scraper:
        for model in ("openai/status-401", "openai/cut-after-3", "anthropic/cut-after-3", "anthropic/nul"):
            run = await ask(server.url, {"model": model, "input": "hello"})
            await wait_closed(f"{server.url}/v1/generations/{run['id']}/events", 60)
        await scraper.until("run_seconds_count", 4)
        scrape = await scraper.scrape()
        failures = {
            (one.labels["provider"], one.labels["code"]): one.value
            for one in scrape.samples("tokentape_run_failures_total")
            if one.value
        }
        assert failures == {
            ("openai", "upstream_unauthorized"): 1,
            ("openai", "upstream_cut"): 1,
            ("anthropic", "upstream_cut"): 1,
        }
        assert scrape.get("repaired_characters_total", provider="anthropic") == 1
        assert scrape.get("repaired_characters_total", provider="openai") == 0


async def test_requests_are_counted_by_route(database: TestDatabase) -> None:
    """A thousand wrong paths and methods are one series each."""
    async with running(database.app_url) as server, scraping(server) as scraper, http_client(server.url) as client:
        for n in range(30):
            assert (await client.get(f"/v1/generations/gen_{n:026}")).status_code == 404
            assert (await client.get(f"/v1/nothing/{n}?secret={n}")).status_code == 404
            assert (await client.request(f"BREW{n}", "/healthz")).status_code == 405
        assert (await client.post("/v1/generations", json={"model": "none"})).status_code == 422
        scrape = await scraper.scrape()
        asked = {
            (one.labels["method"], one.labels["route"], one.labels["status"]): one.value
            for one in scrape.samples("tokentape_http_requests_total")
        }
        assert asked["GET", "/v1/generations/<name>", "404"] == 30
        assert asked["GET", "none", "404"] == 30
        assert asked["other", "none", "405"] == 30
        assert asked["POST", "/v1/generations", "422"] == 1
        assert "secret" not in scrape.text
        assert (await client.get("/metrics", headers={"Host": "prometheus.internal:1"})).status_code == 200


async def test_draining_is_shown(database: TestDatabase) -> None:
    """To a scraper whose connection is still open."""
    env = {"TOKENTAPE_STOP_TIMEOUT": "20"}
    async with running(database.app_url, env) as server, scraping(server) as scraper, Api.open(server.port) as api:
        assert (await scraper.scrape()).get("draining") == 0
        async with trio.open_nursery() as nursery:
            await api.generate(tokens=1000, rate=1)
            nursery.start_soon(server.stop)
            await scraper.until("draining", 1)
            nursery.cancel_scope.cancel()


async def refuse_connections(postgres: Postgres, database: TestDatabase) -> None:
    """Makes the database refuse all connections."""
    await trio.to_thread.run_sync(postgres.sql, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    end = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database.name}'"
    await trio.to_thread.run_sync(postgres.sql, end)


async def accept_connections(postgres: Postgres, database: TestDatabase) -> None:
    """Makes the database accept connections again."""
    await trio.to_thread.run_sync(postgres.sql, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize("idle", [True, False])
async def test_database_outage_is_shown_and_logged_once(
    database: TestDatabase, postgres: Postgres, idle: bool
) -> None:
    """The page answers without it, at once, and says so; one log line when it goes and one when it is back.

    However many ask meanwhile, and also when nobody asks.
    """
    env = {"TOKENTAPE_STORE_PATIENCE": "1"}
    async with running(database.app_url, env) as server, scraping(server) as scraper, http_client(server.url) as c:
        log = (await c.post("/v1/conversations", json={})).headers["Location"]
        await refuse_connections(postgres, database)
        async with await Connection.open(server.port) as stream:
            if not idle:
                await stream.ask("GET", f"{log}/events?format=sse")
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(c.get, log)
            await scraper.until("store_up", 0)
            scrape = await scraper.scrape()
            assert scrape.get("store_failures_total", kind="lost") > 0
            assert scrape.get("store_away_seconds_total") > 0
            if not idle:
                assert scrape.get("http_requests_total", route="/v1/conversations/<name>", status="503") == 20
            await accept_connections(postgres, database)
            if not idle:  # a question that failed, and that nobody asks again, is forgotten after ten seconds only
                while (await c.get(log)).status_code == 503:
                    await trio.sleep(0.02)
            scrape = await scraper.until("store_up", 1)
        assert scrape.get("store_outages_total") == 1
        said = [line["event"] for line in server.log_lines() if line["logger"] == "store"]
        assert said == ["store unavailable", "store available again"]
        assert "Traceback" not in server.logged()


async def test_hanging_database_is_shown(database: TestDatabase, postgres: Postgres) -> None:
    """It is connected and silent: no call has failed yet, and the page still says that it is down."""
    async with running(database.app_url) as server, scraping(server) as scraper:
        await scraper.until("store_up", 1)
        find = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database.name}'"
        backends = [int(pid) for pid in (await trio.to_thread.run_sync(postgres.sql, find)).split()]
        assert backends
        for pid in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            scrape = await scraper.until("store_up", 0)
            assert scrape.get("store_quiet_seconds") > 4
            assert scrape.get("store_failures_total") == 0
        finally:
            for pid in backends:
                os.kill(pid, signal.SIGCONT)
        await scraper.until("store_up", 1)


async def test_refused_streams_are_counted(database: TestDatabase) -> None:
    """Refused with a 200, for an EventSource never comes back after anything else."""
    async with running(database.app_url, {"TOKENTAPE_MAX_STREAMS": "1"}) as server, scraping(server) as scraper:
        async with Api.open(server.port) as api, await Connection.open(server.port) as connection:
            log = await api.conversation()
            await connection.ask("GET", f"{log}/events?format=sse")
            await connection.receive()
            for _ in range(3):
                answer = await api.http.get(f"{log}/events?format=sse")
                assert answer.status_code == 200
            scrape = await scraper.scrape()
            assert scrape.get("turned_away_total", code="overloaded") == 3
            assert scrape.get("readers_limit") == 1


async def test_streams_cut_by_an_outage_are_counted(autojump_clock: MockClock) -> None:
    """They are not logged: ten thousand streams would be ten thousand lines."""
    log = MemoryBackend()
    async with process(log.process()) as writer, process(log.process(), patience=2.0) as runtime:
        name = await start(writer)  # elsewhere: here nothing of it is in memory
        source = await find_conversation(runtime, name, 0)
        store = MemoryAuthStore()
        anybody = Grant(ANONYMOUS, Authenticator(store), RateLimiter(LimitList(), store))
        for form in (Form.SSE, Form.NDJSON):
            reply = open_stream(runtime, anybody, source, form, heartbeat=15.0)
            assert isinstance(reply, StreamResponse)
            log.available = False
            reply.body.begin()
            with capture_logs() as lines:
                opening, rest = await reply.body.next(), await reply.body.next()
            reply.body.end()
            log.available = True
            assert opening
            assert rest == b"", "the opening, and nothing more"
            assert lines == []
        assert runtime.metrics.streams_cut.counts["store_away", "sse"] == 1
        assert runtime.metrics.streams_cut.counts["store_away", "ndjson"] == 1
