"""Webhooks of real server processes with a real receiver: signed, shown, and delivered although the server
is killed.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio

from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running
from tests.openapi.contract import validator

from .receiver import Receiver, silence
from .webhook_process import PATH_SECRET, SECRET

ENV = {"TOKENTAPE_WEBHOOK_SECRET": SECRET, "TOKENTAPE_WEBHOOK_ALLOW_PRIVATE": "true"}


@pytest.fixture
async def servers(database: TestDatabase) -> AsyncIterator[list[Server]]:
    """Two servers on one database. No log line may hold the URL or the secret."""
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(running(database.app_url, ENV)) for _ in range(2)]
        yield both
        for server in both:
            assert PATH_SECRET not in server.logged()
            assert SECRET.removeprefix("whsec_") not in server.logged()


async def request_generation(server: Server, receiver: Receiver) -> str:
    """Requests a short answer with a webhook, and returns the generation."""
    url = f"http://127.0.0.1:{receiver.port}/{PATH_SECRET}"
    body = {"model": "demo", "parameters": {"tokens": 5, "rate": 0}, "webhook": url}
    async with http_client(server.url) as client:
        answer = await client.post("/v1/generations", json=body)
        assert answer.status_code == 202, answer.text
        assert PATH_SECRET not in answer.text
        return str(answer.json()["id"])


async def wait_for_tries(server: Server, generation: str) -> list[dict[str, object]]:
    """The tries, once there is one."""
    async with http_client(server.url) as client:
        with trio.fail_after(60):
            while True:
                answer = await client.get(f"/v1/generations/{generation}/webhook")
                assert answer.status_code == 200, answer.text
                assert PATH_SECRET not in answer.text
                if answer.json()["status"] == "delivered":
                    tries: list[dict[str, object]] = answer.json()["tries"]
                    return tries
                await trio.sleep(0.1)


async def test_webhook_is_delivered(servers: list[Server]) -> None:
    async with Receiver().listening() as receiver:
        generation = await request_generation(servers[0], receiver)
        (one,) = await wait_for_tries(servers[1], generation)
    assert (one["attempt"], one["status"]) == (1, 200)
    (got,) = receiver.posts
    body = got.verified()
    validator("EndedMessage").validate(body)
    assert body["type"] == "generation.completed"
    assert got.headers["webhook-id"] == "msg_" + generation.removeprefix("gen_")
    async with http_client(servers[1].url) as client:
        page = await client.get(f"/v1/generations/{generation}/events")
        assert body["data"]["event"] == page.json()["events"][-1]
        snapshot = await client.get(body["data"]["snapshot"])
        assert (snapshot.json()["id"], snapshot.json()["status"]) == (generation, "completed")
        refused = await client.post("/v1/generations", json={"model": "demo", "webhook": "ftp://x"})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_webhook")


async def test_webhook_survives_its_server(servers: list[Server]) -> None:
    """The server is killed during the POST: another one makes that try again with the same id."""
    async with Receiver(silence, 200).listening() as receiver:
        generation = await request_generation(servers[0], receiver)
        await receiver.got(1)
        await servers[0].kill()
        (one,) = await wait_for_tries(servers[1], generation)
        assert len(receiver.posts) == 2
    assert (one["attempt"], one["status"]) == (1, 200)
    assert receiver.posts[0].headers["webhook-id"] == receiver.posts[1].headers["webhook-id"]
    assert receiver.posts[0].body == receiver.posts[1].body
    assert receiver.posts[1].verified()["type"] == "generation.completed"
