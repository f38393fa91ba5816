"""Cancelling a run from any server process.

When the request returns, the run has ended in the log and the connection to the provider is closed.
"""

import random

import trio

from tests.faults.readers import TERMINAL, ask, read_log
from tests.harness.databases import TestDatabase
from tests.harness.fake_upstream import fake_upstream
from tests.harness.http import http_client
from tests.harness.servers import Server, running

RACES = 30


async def test_provider_connection_is_closed_before_cancel_returns(database: TestDatabase) -> None:
    """Requested at the process that runs it, and at another one."""
    async with fake_upstream() as fake:
        env = {"OPENAI_BASE_URL": fake.base_url}
        async with running(database.app_url, env) as owner, running(database.app_url, env) as other:
            for asked in (owner, other):
                # A token now and then: the run is mostly waiting in the upstream when it is cancelled.
                run = await ask(owner.url, {"model": "openai/ok-1000-5", "input": "go on"})
                await _wait_tokens(owner, run["id"], 2)
                async with http_client() as client:
                    got = await client.post(
                        f"{asked.url}/v1/generations/{run['id']}/cancel", json={"reason": "enough"}
                    )
                snapshot = got.raise_for_status().json()
                assert snapshot["upstream_closed"] is True
                assert snapshot["status"] == "cancelled"
                assert snapshot["reason"] == "enough"
                assert await fake.closed_by_client(), "the upstream went on after cancel had returned"
                await fake.reset()
                log = await read_log(f"{other.url}/v1/generations/{run['id']}/events")
                assert [event["type"] for event in log if event["type"] in TERMINAL] == ["generation.cancelled"]


async def test_concurrent_cancels_and_messages_leave_one_terminal_event(database: TestDatabase) -> None:
    """Requested on two processes; nothing of the run may follow its end."""
    rng = random.Random(7)
    async with running(database.app_url) as one, running(database.app_url) as two:
        for _ in range(RACES):
            run = await ask(
                one.url, {"model": "demo", "parameters": {"tokens": rng.randrange(50, 800), "rate": 0}}
            )
            statuses: list[int] = []
            async with trio.open_nursery() as nursery:
                for server in (one, two):
                    nursery.start_soon(_cancel, server, run["id"], rng.random() * 0.05, statuses)
                    nursery.start_soon(_post, server, run["conversation"], rng.random() * 0.05)
            assert statuses == [200, 200]
            log = await read_log(f"{one.url}/v1/conversations/{run['conversation']}/events")
            assert [event["position"] for event in log] == list(range(1, len(log) + 1))
            own = [event["type"] for event in log if event.get("generation") == run["id"]]
            assert [kind for kind in own if kind in TERMINAL] == own[-1:]
            assert [event["type"] for event in log].count("message.posted") == 2
        assert "Traceback" not in one.logged() + two.logged()


async def _cancel(server: Server, generation: str, pause: float, statuses: list[int]) -> None:
    await trio.sleep(pause)
    async with http_client() as client:
        got = await client.post(f"{server.url}/v1/generations/{generation}/cancel")
        statuses.append(got.status_code)
        assert got.json()["upstream_closed"] is True


async def _post(server: Server, conversation: str, pause: float) -> None:
    await trio.sleep(pause)
    async with http_client() as client:
        body = {"role": "user", "content": "meanwhile"}
        got = await client.post(f"{server.url}/v1/conversations/{conversation}/messages", json=body)
        assert got.status_code == 201


async def _wait_tokens(server: Server, generation: str, least: int) -> None:
    async with http_client() as client:
        with trio.fail_after(20):
            while True:
                snapshot = (await client.get(f"{server.url}/v1/generations/{generation}")).json()
                if snapshot["tokens"] >= least:
                    return
                await trio.sleep(0.02)
