"""Real servers tell real receivers of waits: every kind of wait, every way in which it ends, and kill -9."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from server.config.webhook_signing_keys import new_signing_key
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running
from tests.openapi.contract import validator

from .receiver import Answer, Receiver, silence
from .webhook_process import PATH_SECRET, SECRET

KEY = new_signing_key()
ENV = {
    "TOKENTAPE_WEBHOOK_SECRET": SECRET,
    "TOKENTAPE_WEBHOOK_SIGNING_KEY": KEY.private_text,
    "TOKENTAPE_WEBHOOK_ALLOW_PRIVATE": "true",
    "TOKENTAPE_WORKFLOWS": "tests.harness.apps.interactive_workflows",
}
LOOK = {"name": "look_up", "description": "Looks something up.", "approval": "never"}
CALL = {"tokens": 3, "rate": 0, "calls": [{"name": "look_up", "arguments": {"card": PATH_SECRET}}]}
BODIES: dict[str, dict[str, Any]] = {
    "approval": {"workflow": "asking", "input": {"card": PATH_SECRET}},
    "short approval": {"workflow": "hurried"},
    "input": {"model": "demo", "input": "Go.", "tools": [LOOK], "parameters": CALL, "on_crash": "restart"},
    # A workflow is restarted after a crash; a model's stream that is held for its budget is not.
    "budget": {"workflow": "drafting", "input": "demo", "budget": {"tokens": 10}},
}
"""A request that leads to each kind of wait."""
Json = dict[str, Any]


@pytest.fixture
async def servers(database: TestDatabase) -> AsyncIterator[list[Server]]:
    """Two servers on one database. No log line may hold the URL, the secret or the key."""
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(running(database.app_url, ENV)) for _ in range(2)]
        yield both
        for server in both:
            for secret in (PATH_SECRET, SECRET.removeprefix("whsec_"), KEY.private_text.removeprefix("whsk_")):
                assert secret not in server.logged()


async def request_generation(server: Server, receiver: Receiver, kind: str) -> str:
    """Requests one that will wait, with a webhook for its waits and its end; the generation's path."""
    hook = {"url": f"http://127.0.0.1:{receiver.port}/hook", "events": ["waiting", "ended"]}
    async with http_client(server.url) as client:
        answer = await client.post("/v1/generations", json={**BODIES[kind], "webhook": hook})
        assert answer.status_code == 202, answer.text
        return f"/v1/generations/{answer.json()['id']}"


async def get(server: Server, path: str) -> Json:
    async with http_client(server.url) as client:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found


async def until(server: Server, path: str, there: Callable[[Json], object]) -> Json:
    """What the address answers as soon as it is so."""
    with trio.fail_after(60):
        while not there(found := await get(server, path)):
            await trio.sleep(0.05)
    return found


async def post(server: Server, path: str, body: Json) -> None:
    async with http_client(server.url) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text


async def decide(server: Server, path: str, decision: str) -> None:
    (call,) = (await get(server, path))["tool_calls"]
    modified = {"arguments": {"card": "none"}} if decision == "modified" else {}
    body = {"call": call["call"], "decision": decision, "proposed_digest": call["proposed_digest"], **modified}
    await post(server, f"{path}/decisions", body)


async def send_result(server: Server, path: str) -> None:
    (call,) = (await get(server, path))["tool_calls"]
    await post(server, f"{path}/tools/{call['call']}/result", {"result": 1})


async def cancel(server: Server, path: str) -> None:
    await post(server, f"{path}/cancel", {})


async def raise_budget(server: Server, path: str) -> None:
    await post(server, f"{path}/budget", {"tokens": 100_000})


async def expire(server: Server, path: str) -> None:
    await until(server, path, lambda found: found["status"] == "completed")


End = Callable[[Server, str], Awaitable[None]]
WAYS: list[tuple[str, str, End]] = [
    ("approval", "approved", lambda server, path: decide(server, path, "approved")),
    ("approval", "rejected", lambda server, path: decide(server, path, "rejected")),
    ("approval", "modified", lambda server, path: decide(server, path, "modified")),
    ("approval", "cancelled", cancel),
    ("short approval", "expired", expire),
    ("input", "result", send_result),
    ("input", "cancelled", cancel),
    ("budget", "raised", raise_budget),
    ("budget", "cancelled", cancel),
]


def read(receiver: Receiver) -> list[Json]:
    """The messages, after a check of both signatures."""
    public = Ed25519PublicKey.from_public_bytes(KEY.public)
    for one in receiver.posts:
        (v1a,) = [text[4:] for text in one.headers["webhook-signature"].split(" ") if text.startswith("v1a,")]
        content = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.body
        public.verify(base64.b64decode(v1a), content)
        assert PATH_SECRET.encode() not in one.body or b'"generation.waiting"' not in one.body
    return [{"id": one.headers["webhook-id"], **one.verified()} for one in receiver.posts]


async def test_every_kind_of_wait_and_each_end_are_told(servers: list[Server]) -> None:
    """All at the same time, each with a receiver of its own."""

    async def wait_and_end(kind: str, way: str, end: End) -> None:
        async with Receiver().listening() as receiver:
            path = await request_generation(servers[0], receiver, kind)
            await receiver.got(1)
            await end(servers[1], path)
            shown = await until(servers[1], f"{path}/webhook", lambda found: found["status"] != "pending")
        first, last = read(receiver)
        validator("WaitingMessage").validate({key: first[key] for key in ("type", "timestamp", "data")})
        name = path.rpartition("_")[2]
        assert (first["type"], first["data"]["waiting_for"]) == ("generation.waiting", kind.rpartition(" ")[2])
        assert first["id"] == f"msg_{name}_{first['data']['position']}"
        status = "cancelled" if way == "cancelled" else "completed"
        assert (last["type"], last["id"]) == (f"generation.{status}", f"msg_{name}"), (kind, way)
        assert (shown["status"], [wait["status"] for wait in shown["waits"]]) == ("delivered", ["delivered"])

    async with trio.open_nursery() as nursery:
        for one in WAYS:
            nursery.start_soon(wait_and_end, *one)


@pytest.mark.parametrize(
    ("answer", "statuses"),
    [(silence, []), (500, [500]), (200, [200])],
    ids=["during the try", "after a failed try", "after the delivery"],
)
async def test_the_server_is_killed_while_runs_wait(
    servers: list[Server], answer: int | Answer, statuses: list[int]
) -> None:
    """Kill -9. Another server goes on: it tells of the same waits, if they were not told, and of the ends."""
    ends = {"approval": WAYS[0][2], "input": send_result, "budget": raise_budget}

    def recorded(found: Json) -> bool:
        return [one["status"] for wait in found["waits"] for one in wait["tries"]] == statuses

    async with AsyncExitStack() as stack:
        receivers = {kind: await stack.enter_async_context(Receiver(answer, 200).listening()) for kind in ends}
        paths = {kind: await request_generation(servers[0], one, kind) for kind, one in receivers.items()}
        for kind, receiver in receivers.items():
            await receiver.got(1)
            await until(servers[1], f"{paths[kind]}/webhook", recorded)
        await servers[0].kill()
        for kind, end in ends.items():
            hook = f"{paths[kind]}/webhook"
            await until(servers[1], hook, lambda found: found["waits"][0]["status"] == "delivered")
            await until(servers[1], paths[kind], lambda found: found["attempt"] == 2)
            await end(servers[1], paths[kind])
            shown = await until(servers[1], hook, lambda found: found["status"] != "pending")
            assert shown["status"] == "delivered"
    for kind, receiver in receivers.items():
        messages = read(receiver)
        assert [one["type"] for one in messages[-1:]] == ["generation.completed"], kind
        assert {one["id"] for one in messages[:-1]} == {messages[0]["id"]}, kind
        assert len({one.body for one in receiver.posts[:-1]}) == 1, kind
        assert len(messages) == 3 - (answer == 200), kind


async def test_the_public_key_of_a_server(servers: list[Server]) -> None:
    for server in servers:
        assert await get(server, "/v1/webhooks/public-key") == {"public_keys": [KEY.public_text]}


async def test_a_key_alone_is_enough(database: TestDatabase) -> None:
    env = {name: value for name, value in ENV.items() if name != "TOKENTAPE_WEBHOOK_SECRET"}
    async with running(database.app_url, env) as server, Receiver().listening() as receiver:
        path = await request_generation(server, receiver, "approval")
        await receiver.got(1)
        await cancel(server, path)
        await receiver.got(2)
        assert [one.headers["webhook-signature"].split(",")[0] for one in receiver.posts] == ["v1a", "v1a"]
