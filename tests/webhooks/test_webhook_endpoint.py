"""What clients are told of webhooks: each try, without the URL's path or the secret; and the public keys."""

from dataclasses import replace
from datetime import datetime
from typing import cast

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import MockClock

from eventstore import Place
from eventstore.memory_backend import MemoryBackend
from server.config.web_addresses import PublicUrl
from server.config.webhook_signing_keys import new_signing_key
from server.conversations import idempotency_keys
from server.ids import new_id
from server.problem import not_found
from server.runtime.conversation_service import ConversationService
from server.web.edge import problem_json
from server.web.edge.quart_adapter import route_endpoints
from server.web.webhook_endpoints import webhook_endpoints
from tests.conversations.event_builders import proposed

from .receiver import Receiver, silence
from .webhook_process import CONVERSATION, OPTIONS, PATH_SECRET, PLAIN_URL, PUBLIC, SECRET, Process, process


class WebhookRuntime:
    """The part of a runtime that the endpoint needs, without models and runs."""

    def __init__(self, here: Process) -> None:
        self.webhooks = here.webhooks
        self._store = here.store

    async def place(self, generation: str) -> Place:
        found = await self._store.find_key(idempotency_keys.GENERATION, generation)
        if found is None:
            raise not_found("generation")
        return found


def app_with(here: Process) -> QuartTrio:
    """The endpoint, served."""
    app = QuartTrio(__name__)
    problem_json.install(app, 1_000, PublicUrl())
    app.register_blueprint(
        route_endpoints("webhook", "GET", webhook_endpoints(cast(ConversationService, WebhookRuntime(here))))
    )
    return app


async def test_each_try_is_listed(autojump_clock: MockClock) -> None:
    generation = new_id("gen")
    receiving = Receiver(500, silence, 200)
    async with receiving.in_memory() as receiver, process(MemoryBackend().process(), receiver.connect) as here:
        client = app_with(here).test_client()
        await here.register(generation=generation)
        address = f"/v1/generations/{generation}/webhook"
        answer = await client.get(address)
        assert await answer.get_json() == {
            "status": "pending",
            "url": f"http://{PUBLIC}:8080",
            "events": ["ended"],
            "reason": None,
            "tries": [],
            "waits": [],
        }
        await here.end(generation=generation)
        await here.ended(generation)
        answer = await client.get(address)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "private, no-cache"
    text = await answer.get_data(as_text=True)
    assert PATH_SECRET not in text
    assert SECRET.removeprefix("whsec_") not in text
    found = await answer.get_json()
    assert (found["status"], found["url"], found["reason"]) == ("delivered", f"http://{PUBLIC}:8080", None)
    at = [datetime.fromisoformat(one.pop("at")) for one in found["tries"]]
    assert at == sorted(at)
    assert found["tries"] == [
        {"attempt": 1, "status": 500, "error": None, "ms": 0},
        {"attempt": 2, "status": None, "error": "timeout", "ms": 15_000},
        {"attempt": 3, "status": 200, "error": None, "ms": 0},
    ]


@pytest.mark.parametrize("asked", [False, True])
async def test_unknown_webhook_is_not_found(asked: bool) -> None:
    """A generation that does not exist, and one without a webhook."""
    generation = new_id("gen")
    async with process(MemoryBackend().process()) as here:
        if asked:
            await here.request(generation)
        answer = await app_with(here).test_client().get(f"/v1/generations/{generation}/webhook")
        assert answer.status_code == 404
        assert (await answer.get_json())["code"] == "not_found"


async def test_webhook_of_a_refused_request_is_not_found() -> None:
    generation = new_id("gen")
    async with process(MemoryBackend().process()) as here:
        await here.webhooks.register(generation, CONVERSATION, PLAIN_URL)
        await here.webhooks.abandon(generation)
        with trio.fail_after(5):
            answer = await app_with(here).test_client().get(f"/v1/generations/{generation}/webhook")
        assert answer.status_code == 404


async def test_waits_and_their_tries_are_listed(autojump_clock: MockClock) -> None:
    generation = new_id("gen")
    async with (
        Receiver(500, 200).in_memory() as receiver,
        process(MemoryBackend().process(), receiver.connect) as here,
    ):
        await here.register(generation=generation, events=("waiting", "ended"))
        await here.write(proposed(generation, asks=True, arguments={"card": PATH_SECRET}))
        await receiver.got(2)
        await here.end(generation=generation)
        await here.ended(generation)
        answer = await app_with(here).test_client().get(f"/v1/generations/{generation}/webhook")
    found = await answer.get_json()
    assert PATH_SECRET not in await answer.get_data(as_text=True)
    assert found["events"] == ["waiting", "ended"]
    (wait,) = found["waits"]
    assert [one.pop("at") for one in wait["tries"]]
    assert wait == {
        "position": 3,
        "waiting_for": "approval",
        "calls": ["call_1"],
        "status": "delivered",
        "tries": [
            {"attempt": 1, "status": 500, "error": None, "ms": 0},
            {"attempt": 2, "status": 200, "error": None, "ms": 0},
        ],
    }


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_public_keys(number: int) -> None:
    """All that sign, in their order; nothing of a private key."""
    keys = tuple(new_signing_key() for _ in range(number))
    async with process(MemoryBackend().process(), options=replace(OPTIONS, keys=keys)) as here:
        answer = await app_with(here).test_client().get("/v1/webhooks/public-key")
    assert await answer.get_json() == {"public_keys": [key.public_text for key in keys]}
