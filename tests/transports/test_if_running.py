"""`if_running`: what a run request does while another run of the conversation has not ended.

Covers reject, queue and interrupt, on one process and on two.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from tests.clients.api import Api, Event, demo, new_key
from tests.clients.websocket import talk
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server

from .command_clients import approval, send_by_post, start_asking_workflow, start_run, wait_until
from .event_checks import check_log
from .module_servers import APP, serving

PATIENCE = 40.0
QUEUED = demo(2, if_running="queue")


@pytest.fixture(scope="module")
def second_server(shared_database: TestDatabase) -> Iterator[Server]:
    """Another server process on the same database."""
    with serving(shared_database.app_url, APP) as server:
        yield server
        assert "Traceback" not in server.logged()


@pytest.fixture
async def second_api(second_server: Server) -> AsyncIterator[Api]:
    """A client of the second server."""
    async with Api.open(second_server.port) as api:
        yield api


def check_turns(log: list[Event]) -> list[str]:
    """Checks that no run started before the runs requested earlier had ended. Returns the runs that started."""
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
    """Ids and statuses of the conversation's generations, in order."""
    return [(one["id"], one["status"]) for one in (await api.get(conversation))["generations"]]


async def test_queued_runs_are_visible_and_can_be_cancelled(api: Api) -> None:
    """They keep their order. A cancelled one never starts. Messages are accepted meanwhile."""
    conversation = await api.conversation()
    async with api.busy(conversation) as first:
        queued = [await start_run(api, conversation, {**QUEUED, "input": f"wish {n}"}) for n in range(4)]
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


async def test_queued_run_starts_after_the_decision_on_the_one_before(api: Api) -> None:
    """Steering sent while it is queued takes effect."""
    conversation = await api.conversation()
    first, call = await start_asking_workflow(api, conversation)
    behind = await start_run(
        api, conversation, {"workflow": "asking", "input": {"page": 8}, "if_running": "queue"}
    )
    steered = await send_by_post(api)("steer", behind, name="strictness", value=9)
    assert (steered.status, steered.code) in ((200, None),), steered
    assert (await send_by_post(api)("decide", first, **approval(call))).status == 200
    found = await wait_until(api, behind, lambda one: one["status"] == "waiting")
    assert found["steering"]["strictness"] == 9
    await send_by_post(api)("decide", behind, **approval(found["tool_calls"][0]))
    await api.finished(behind)
    assert (await api.get(behind))["result"]["strictness"] == 9
    check_turns(await api.log(conversation))


async def test_queue_and_interrupt_start_at_once_if_nothing_runs(api: Api) -> None:
    for way in ("queue", "interrupt"):
        conversation = await api.conversation()
        for _ in range(2):
            await api.finished(await start_run(api, conversation, demo(2, if_running=way)))
        check_turns(await api.log(conversation))


@pytest.mark.parametrize("way", ["post", "websocket"])
async def test_interrupted_run_keeps_its_text(api: Api, way: str) -> None:
    """It ends as cancelled, and queued runs end too."""
    conversation = await api.conversation()
    first = await api.generate(conversation, tokens=1000, rate=100)
    await api.reached(first, 10)
    queued = await start_run(api, conversation, QUEUED)
    body: dict[str, Any] = {"workflow": "duet", "input": {"words": 1}, "if_running": "interrupt"}
    if way == "post":
        last = await start_run(api, conversation, body)
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


async def test_refused_request_interrupts_nothing(api: Api) -> None:
    """Its error is reported before the running generation is touched."""
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


async def test_concurrent_interrupts_with_one_key_act_once(api: Api) -> None:
    """The new run must not be interrupted by a repetition of its own request."""
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


async def test_queue_shared_by_two_servers_keeps_the_order_of_the_log(api: Api, second_api: Api) -> None:
    """Runs are requested on both and cancelled from the other one."""
    conversation = await api.conversation()
    first = await api.generate(conversation, tokens=1000, rate=0.01)
    paths: list[str] = []

    async def ask(client: Api) -> None:
        paths.append(await start_run(client, conversation, QUEUED))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, (api, second_api)[number % 2])
        order = [name for name, status in await states(second_api, conversation) if status == "queued"]
        assert sorted(order) == sorted(map(name_of, paths))
        middle = f"/v1/generations/{order[5]}"
        for client, path in ((api, middle), (second_api, first)):
            assert (await client.post(f"{path}/cancel", {})).json()["upstream_closed"] is True
        for path in paths:
            await api.finished(path)
    log = await api.log(conversation)
    assert check_turns(log) == [name_of(first), *order[:5], *order[6:]]
    workers = {event["worker"] for event in log if event["type"] == "generation.started"}
    assert len(workers) == 2
