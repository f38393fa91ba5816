"""The server is killed (SIGKILL) at random moments of a run.

No client may have received an event that the log lacks, positions must have no gap, every run must end exactly
once, and a reader that was cut must get to the end by itself.
"""

import random

import pytest
import trio

from tests.faults.readers import SseReader, ask, assert_whole, read_log, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

TOKENS = 2_000


async def _kill_at_random(database: TestDatabase, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    async with running(database.app_url) as server:
        for _ in range(kills):
            run = await ask(server.url, {"model": "demo", "parameters": {"tokens": TOKENS, "rate": 2_000}})
            url = f"{server.url}/v1/generations/{run['id']}/events"
            reader = SseReader(url)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.follow)
                wanted = rng.choice([0, 1, rng.randrange(TOKENS // 2)])
                with trio.fail_after(60):
                    while len(reader.events) < wanted:
                        await trio.sleep(0.001)
                await server.kill()
                held = list(reader.events)
                await server.start()
                log = await wait_closed(url)
                with trio.fail_after(60):
                    await reader.done.wait()
            assert held == log[: len(held)], "a client held what the log lacks"
            assert reader.events == log, "before + after is not the log"
            assert_whole(log)
            assert log[-1]["type"] == "generation.failed"
            assert log[-1]["error"]["code"] == "worker_lost"
            assert log[-1]["retryable"] is True
            whole = await read_log(f"{server.url}/v1/conversations/{run['conversation']}/events")
            assert [event["position"] for event in whole] == list(range(1, len(whole) + 1))
            assert "Traceback" not in server.logged()


async def test_two_kills(database: TestDatabase) -> None:
    """Seeded."""
    await _kill_at_random(database, 2, seed=1)


@pytest.mark.soak
async def test_fifty_kills(database: TestDatabase) -> None:
    """Other seeds at every run."""
    await _kill_at_random(database, 50, seed=random.randrange(2**32))
