"""A real server process on its own database completes one generation."""

from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import INTERPRETER, running


async def test_generation_completes(database: TestDatabase) -> None:
    """The main job, once, in one breath."""
    async with running(database.app_url, program=INTERPRETER) as server, http_client(server.url) as client:
        ask = {"model": "demo", "parameters": {"tokens": 5, "rate": 0}}
        asked = await client.post("/v1/generations", json=ask)
        assert asked.status_code == 202
        page = (await client.get(asked.headers["Location"] + "/events?wait=10")).json()
        while not page["closed"]:
            page = (await client.get(f"{asked.headers['Location']}/events?wait=10")).json()
        assert [event["type"] for event in page["events"]].count("token") == 5
        assert await server.stop() == 0
