"""PostgreSQL is restarted, stopped, or has a table locked while a server runs.

Runs go on afterwards, clients get clear errors meanwhile, and the server recovers by itself.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import trio

from server.embedded_postgres import acquire, restart, stop
from tests.conftest import postgres_folder
from tests.eventstore.connections import sessions
from tests.faults.readers import SseReader, ask, assert_whole, wait_closed
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import running

RUN = {"model": "demo", "parameters": {"tokens": 1_500, "rate": 300}}


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory for an embedded database of the test, with a space in its path."""
    with postgres_folder(tmp_path, "data folder") as folder:
        yield folder


async def test_run_survives_a_postgres_restart(data_dir: Path) -> None:
    """A crash and a restart: the reader gets every token once."""
    async with running(None, {"TOKENTAPE_DATA_DIR": str(data_dir)}) as server:
        held = await trio.to_thread.run_sync(acquire, data_dir)
        try:
            run = await ask(server.url, RUN)
            url = f"{server.url}/v1/generations/{run['id']}/events"
            reader = SseReader(url)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.follow)
                for least, again in ((100, partial(restart, held, "immediate")), (600, partial(restart, held))):
                    with trio.fail_after(30):
                        while len(reader.events) < least:
                            await trio.sleep(0.01)
                    await trio.to_thread.run_sync(again)
                log = await wait_closed(url, 60)
                with trio.fail_after(20):
                    await reader.done.wait()
        finally:
            await trio.to_thread.run_sync(held.release)
        assert reader.events == log
        assert_whole(log)
        assert log[-1]["type"] == "generation.completed"
        assert [event["type"] for event in log].count("token") == 1_500
        assert "Traceback" not in server.logged()


async def test_stopped_database_gives_503_until_it_is_back(data_dir: Path) -> None:
    """With Retry-After, after `TOKENTAPE_STORE_PATIENCE`; `/readyz` fails meanwhile."""
    env = {"TOKENTAPE_DATA_DIR": str(data_dir), "TOKENTAPE_STORE_PATIENCE": "1"}
    async with running(None, env) as server, http_client(server.url) as client:
        held = await trio.to_thread.run_sync(acquire, data_dir)
        try:
            run = await ask(server.url, RUN)
            await trio.to_thread.run_sync(stop, held)
            conversation = f"/v1/conversations/{run['conversation']}"
            for path in ("/readyz", f"/v1/generations/{run['id']}", f"{conversation}/events"):
                got = await client.get(path)
                if got.status_code != 200:  # the server starts its own PostgreSQL again within seconds
                    assert got.status_code == 503
                    assert got.headers["Content-Type"] == "application/problem+json"
                    assert int(got.headers["Retry-After"]) >= 1
            await server.wait_ready()
            log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events", 60)
            assert_whole(log)
        finally:
            await trio.to_thread.run_sync(held.release)
        assert "Traceback" not in server.logged()


async def test_embedded_database_survives_a_killed_server(data_dir: Path) -> None:
    """The next start finds it running, and a clean stop then stops it."""
    async with running(None, {"TOKENTAPE_DATA_DIR": str(data_dir)}) as server:
        run = await ask(server.url, RUN)
        postmaster = await trio.to_thread.run_sync(_postmaster, data_dir)
        await server.kill()
        assert _runs(postmaster)
        await server.start()
        assert await trio.to_thread.run_sync(_postmaster, data_dir) == postmaster
        log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
        assert log[-1]["error"]["code"] == "worker_lost"
        assert await server.stop() == 0
        assert not _runs(postmaster)


def _postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def _runs(pid: int) -> bool:
    # Where nobody collects the dead, an ended postmaster stays in the table as a zombie.
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_server_stays_ready_while_a_table_is_locked(postgres: Postgres, database: TestDatabase) -> None:
    """A migration that locks a table must not take all servers out of the load balancer at once."""
    async with (
        running(database.app_url) as server,
        http_client(server.url) as client,
        sessions(database.owner_url, "holder") as (holder,),
    ):
        for table in ("streams", "events", "writers", "keys", "snapshots"):
            await holder.fetch("BEGIN")
            await holder.fetch(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, "/v1/generations/gen_nobody")  # whoever waits for it is there first
                for _ in range(3):
                    assert (await client.get("/readyz")).status_code == 200, table
                await holder.fetch("COMMIT")
