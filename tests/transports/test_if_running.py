"""`if_running`: what becomes of a request while another one of the conversation has not ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from tests.clients.api import Api, Event, demo, new_key
from tests.clients.websocket import talk
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server

from .control_clients import approval, asking, begun, by_post, until
from .event_checks import check_log
from .module_servers import APP, serving

PATIENCE = 40.0
QUEUED = demo(2, if_running="queue")


@pytest.fixture(scope="module")
def second_server(shared_database: TestDatabase) -> Iterator[Server]:
    """Another process on the same database."""
    with serving(shared_database.app_url, APP) as server:
        yield server
        assert "Traceback" not in server.logged()


@pytest.fixture
async def other(second_server: Server) -> AsyncIterator[Api]:
    """A client of the other one."""
    async with Api.open(second_server.port) as api:
        yield api


def check_turns(log: list[Event]) -> list[str]:
    """One after the other: none starts before those that were asked for earlier have ended. Those that started."""
    check_log(log)
    asked = [event["generation"] for event in log if event["type"] == "generation.requested"]
    started = [event["generation"] for event in log if event["type"] == "generation.started"]
    assert started == [generation for generation in asked if generation in started]
    for generation in started:
        begins = next(
            event["position"]
            for event in log
            if event["type"] == "generation.started" and event["generation"] == generation
        )
        for earlier in asked[: asked.index(generation)]:
            assert max(event["position"] for event in log if event.get("generation") == earlier) < begins
    return started


def name_of(path: str) -> str:
    """The id in a path."""
    return path.rpartition("/")[2]


async def states(api: Api, conversation: str) -> list[tuple[str, str]]:
    """Its generations, in order, with their status."""
    return [(one["id"], one["status"]) for one in (await api.get(conversation))["generations"]]


async def test_a_queue_is_visible_and_each_of_it_can_be_cancelled(api: Api) -> None:
    """Order kept; one that is cancelled in the queue never starts; a message meanwhile is welcome."""
    conversation = await api.conversation()
    async with api.busy(conversation) as first:
        queued = [await begun(api, conversation, {**QUEUED, "input": f"wish {n}"}) for n in range(4)]
        seen = [(name_of(first), "running"), *((name_of(path), "queued") for path in queued)]
        assert await states(api, conversation) == seen
        for path in queued:
            answer = await api.http.get(path)
            assert (answer.json()["status"], answer.json()["attempt"]) == ("queued", 0)
            assert answer.headers["Retry-After"]
        cancelled = await api.post(f"{queued[1]}/cancel", {"reason": "not that one"})
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert cancelled.json()["upstream_closed"] is True
        assert [event["type"] for event in await api.finished(queued[1])] == [
            *("generation.requested", "generation.cancelled"),
        ]
        await api.message(conversation)
        refused = await api.post(f"{conversation}/generations", demo())
        assert (refused.status_code, refused.json()["code"]) == (409, "generation_running")
    for path in (queued[0], *queued[2:]):
        assert (await api.finished(path))[-1]["type"] == "generation.completed"
    log = await api.log(conversation)
    assert check_turns(log) == [name_of(path) for path in (first, queued[0], *queued[2:])]
    said = [event["content"] for event in log if event["type"] == "message.posted"]
    assert said == [*(f"wish {n}" for n in range(4)), "And another thing."]


async def test_a_queue_behind_one_that_waits_for_a_person(api: Api) -> None:
    """A decision lets it go on, and then those behind it; steered while it is first."""
    conversation = await api.conversation()
    first, call = await asking(api, conversation)
    behind = await begun(api, conversation, {"workflow": "asking", "input": {"page": 8}, "if_running": "queue"})
    steered = await by_post(api)("steer", behind, name="strictness", value=9)
    assert (steered.status, steered.code) in ((200, None),), steered
    assert (await by_post(api)("decide", first, **approval(call))).status == 200
    found = await until(api, behind, lambda one: one["status"] == "waiting")
    assert found["steering"]["strictness"] == 9
    await by_post(api)("decide", behind, **approval(found["tool_calls"][0]))
    await api.finished(behind)
    assert (await api.get(behind))["result"]["strictness"] == 9
    check_turns(await api.log(conversation))


async def test_nobody_runs_and_it_starts_at_once(api: Api) -> None:
    """For `queue` and `interrupt` too."""
    for way in ("queue", "interrupt"):
        conversation = await api.conversation()
        for _ in range(2):
            await api.finished(await begun(api, conversation, demo(2, if_running=way)))
        check_turns(await api.log(conversation))


@pytest.mark.parametrize("way", ["post", "websocket"])
async def test_interrupt_keeps_the_text(api: Api, way: str) -> None:
    """The first one ends as cancelled with all it had said; what was queued ends too."""
    conversation = await api.conversation()
    first = await api.generate(conversation, tokens=1000, rate=100)
    await api.reached(first, 10)
    queued = await begun(api, conversation, QUEUED)
    body: dict[str, Any] = {"workflow": "duet", "input": {"words": 1}, "if_running": "interrupt"}
    if way == "post":
        last = await begun(api, conversation, body)
    else:
        async with talk(api.port, conversation, "now") as socket:
            last = (await socket.command("generate", **body))["location"]
    await api.finished(last)
    log = await api.log(conversation)
    assert check_turns(log) == [name_of(first), name_of(last)]
    snapshot = await api.get(first)
    deltas = [
        event["delta"] for event in log if event["type"] == "token" and event["generation"] == name_of(first)
    ]
    assert (snapshot["status"], snapshot["text"]) == ("cancelled", "".join(deltas))
    assert len(deltas) >= 8
    assert snapshot["reason"] == f"interrupted by {name_of(last)}"
    assert [status for _, status in await states(api, conversation)] == ["cancelled", "cancelled", "completed"]
    assert (await api.finished(queued))[-1]["type"] == "generation.cancelled"


async def test_one_that_is_refused_interrupts_nobody(api: Api) -> None:
    """Its mistake is told before anything happens."""
    conversation = await api.conversation()
    wrong: list[dict[str, Any]] = [
        {"model": "demo", "parameters": {"tokens": -1}},
        {"model": "nobody/x"},
        {"workflow": "nothing"},
        {"workflow": "reading", "input": {"pages": 0}},
        {"model": "demo", "tools": ["nothing"]},
    ]
    async with api.busy(conversation) as first:
        for body in wrong:
            answer = await api.post(f"{conversation}/generations", {**body, "if_running": "interrupt"})
            assert answer.status_code == 422, answer.text
        assert (await api.get(first))["status"] == "running"


async def test_an_interrupt_acts_once(api: Api) -> None:
    """Ten with one key, at once: one run, and it is not interrupted by itself."""
    conversation, key = await api.conversation(), new_key()
    first = await api.generate(conversation, tokens=1000, rate=1)
    places = set()

    async def interrupt() -> None:
        body = demo(3, if_running="interrupt")
        answer = await api.post(f"{conversation}/generations", body, idempotency_key=key)
        assert answer.status_code == 202, answer.text
        places.add(answer.headers["Location"])

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(interrupt)
    [last] = places
    assert (await api.finished(last))[-1]["type"] == "generation.completed"
    assert (await api.finished(first))[-1]["type"] == "generation.cancelled"
    assert len(await states(api, conversation)) == 2


async def test_a_queue_across_two_servers(api: Api, other: Api) -> None:
    """Asked for here and there, at once: one order for all, in the log's order; ended from the other side."""
    conversation = await api.conversation()
    first = await api.generate(conversation, tokens=1000, rate=0.01)
    paths: list[str] = []

    async def ask(client: Api) -> None:
        paths.append(await begun(client, conversation, QUEUED))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, (api, other)[number % 2])
        order = [name for name, status in await states(other, conversation) if status == "queued"]
        assert sorted(order) == sorted(map(name_of, paths))
        middle = f"/v1/generations/{order[5]}"
        for client, path in ((api, middle), (other, first)):
            assert (await client.post(f"{path}/cancel", {})).json()["upstream_closed"] is True
        for path in paths:
            await api.finished(path)
    log = await api.log(conversation)
    assert check_turns(log) == [name_of(first), *order[:5], *order[6:]]
    workers = {event["worker"] for event in log if event["type"] == "generation.started"}
    assert len(workers) == 2
