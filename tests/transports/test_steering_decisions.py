"""Steering, decisions and tool results, by POST and on a WebSocket.

Both must lead to the same events and the same responses, and the run must get exactly what was decided.
"""

from __future__ import annotations

import json
import re
from typing import Any

import trio
import trio.testing

from tests.clients.api import Api

from .command_clients import (
    ASKED_SHIP,
    PATIENCE,
    approval,
    command_sender,
    send_by_post,
    start_asking_workflow,
    start_tool_run,
    wait_until,
    waits_for_decision,
)

ID = re.compile(r"\b(?:conv|gen|call|msg)_[0-9A-Z]+\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def normalized(value: Any) -> Any:
    """The value with ids numbered in order of appearance and times left out, so that two runs can be compared."""
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        kind = found[0].partition("_")[0]
        return names.setdefault(found[0], f"{kind} {len(names)}")

    text = TIME.sub("then", ID.sub(name, json.dumps(value, sort_keys=True)))
    text = re.sub(r'"ttft_ms": [0-9]+', '"ttft_ms": 0', text)
    return json.loads(re.sub(r"worker-[0-9a-f]+", "worker", text))


async def run_scenario(api: Api, way: str) -> Any:
    """People steer, modify, reject, approve and deliver results. Returns the log and all responses, normalized."""
    conversation = await api.conversation()
    answers = []
    async with command_sender(way, api, conversation) as tell:
        first, call = await start_asking_workflow(api, conversation, page=1)
        answers.append(await tell("steer", first, name="strictness", value=9))
        answers.append(await tell("steer", first, name="voice", value="loud"))
        answers.append(await tell("decide", first, **approval(call, decision="modified", arguments={"page": 2})))
        await api.finished(first)
        second, call = await start_asking_workflow(api, conversation, page=3)
        answers.append(await tell("decide", second, **approval(call, decision="rejected", reason="no")))
        await api.finished(second)
        for outcome in ({"result": [1, None]}, {"error": {"code": "lost", "message": "in the post"}}):
            third = await start_tool_run(api, conversation, ASKED_SHIP, to="a")
            [call] = (await wait_until(api, third, waits_for_decision))["tool_calls"]
            answers.append(await tell("decide", third, **approval(call)))
            await wait_until(api, third, lambda one: one["tool_calls"][0]["status"] == "started")
            answers.append(await tell("tool_result", third, call=call["call"], **outcome))
            await api.finished(third)
    assert [answer.status for answer in answers] == [200] * len(answers)
    log = await api.log(conversation)
    told = [[answer.location, answer.body] for answer in answers]
    for answer in answers:
        generation, _, at = str(answer.location).partition("?at=")
        assert await api.get(generation, at=int(at)) == answer.body
        assert answer.body["position"] == int(at)
    return normalized([log, told])


async def test_post_and_websocket_have_the_same_effect(api: Api) -> None:
    """Compared field by field, events and responses."""
    by_posts = await run_scenario(api, "post")
    assert await run_scenario(api, "websocket") == by_posts
    [log, _] = by_posts
    types = [event["type"] for event in log]
    assert types.count("tool.decided") == 4
    assert types.count("steering.changed") == 2
    assert types.count("tool.finished") == 2
    steered = next(event for event in log if event["type"] == "steering.changed")
    assert (steered["name"], steered["value"], steered["by"]) == ("strictness", 9, "anonymous")


async def test_run_gets_the_decided_arguments_and_current_steering(api: Api) -> None:
    """The steering is that of the moment in which the run goes on."""
    generation, call = await start_asking_workflow(api, page=1)
    tell = send_by_post(api)
    assert call["arguments"] == {"page": 1}
    await tell("steer", generation, name="strictness", value=8)
    changed = {"page": 10, "note": "ü"}
    answer = await tell("decide", generation, **approval(call, decision="modified", arguments=changed))
    [shown] = answer.body["tool_calls"]
    assert (shown["status"], shown["arguments"], shown["by"]) == ("modified", changed, "anonymous")
    assert shown["proposed_digest"] == call["proposed_digest"] != shown["arguments_digest"]
    assert answer.body["status"] == "running"
    log = await api.finished(generation)
    assert [event["value"] for event in log if event["type"] == "result"] == [
        {"decision": "modified", "arguments": changed, "reason": None, "strictness": 8}
    ]
    snapshot = await api.get(generation)
    assert snapshot["steering"] == {"strictness": 8, "voice": "calm"}
    assert snapshot["result"]["arguments"] == changed


async def test_server_tool_runs_with_the_modified_arguments(api: Api) -> None:
    """Each step of the call is in the log before the next one begins."""
    generation = await start_tool_run(api, "/v1", "refund", amount=5)
    [call] = (await wait_until(api, generation, waits_for_decision))["tool_calls"]
    modified = approval(call, decision="modified", arguments={"amount": 4, "to": "Ada"})
    assert (await send_by_post(api)("decide", generation, **modified)).status == 200
    log = await api.finished(generation)
    steps = [event for event in log if event["type"].startswith("tool.")]
    assert [event["type"] for event in steps] == ["tool.proposed", "tool.decided", "tool.started", "tool.finished"]
    assert steps[-1]["result"] == {"paid": 4, "to": "Ada"}
    assert log[-1]["type"] == "generation.completed"
    [call] = (await api.get(generation))["tool_calls"]
    assert (call["status"], call["result"]) == ("finished", steps[-1]["result"])


async def test_waiting_run_holds_pollers_until_the_decision(api: Api) -> None:
    """It also reports `waiting`, asks pollers to come less often, and blocks another run."""
    conversation = await api.conversation()
    generation, call = await start_asking_workflow(api, conversation)
    waiting = await api.http.get(generation)
    assert (waiting.json()["status"], waiting.headers["Retry-After"]) == ("waiting", "5")
    other = await api.post(f"{conversation}/generations", {"model": "demo"})
    assert (other.status_code, other.json()["code"]) == (409, "generation_running")
    held: list[Any] = []

    async def hold(path: str) -> None:
        headers = {"If-None-Match": waiting.headers["ETag"], "Prefer": "wait=40"}
        held.append((await api.http.get(path, headers=headers)).json())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, generation)
            nursery.start_soon(hold, conversation)
            await trio.testing.wait_all_tasks_blocked(0.1)
            await api.message(conversation, "another matter")  # wakes the conversation's poller alone
            while not held:
                await trio.sleep(0.01)
            assert held[0]["messages"]
            decided = await send_by_post(api)("decide", generation, **approval(call))
    assert held[1]["id"] == decided.body["id"]
    assert held[1]["position"] >= decided.body["position"]
    await api.finished(generation)
