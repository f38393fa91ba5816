"""Commands that a run refuses: steering, decisions and tool results that are wrong, late or repeated.

POST and WebSocket must give the same status and code, and nothing may be appended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pytest
import trio

from tests.clients.api import Api, new_key
from tests.clients.http1 import Connection

from .command_clients import (
    ASKED_SHIP,
    PATIENCE,
    SendCommand,
    approval,
    command_sender,
    start_asking_workflow,
    start_client_tool_run,
    start_tool_run,
    wait_until,
    waits_for_decision,
)

on_both = pytest.mark.parametrize("way", ["post", "websocket"])
STEER = {"name": "strictness", "value": 5}


async def make_refusals(
    api: Api, conversation: str, tell: SendCommand
) -> list[tuple[str, str, dict[str, Any], int, str]]:
    """Commands that no run here accepts: command, generation, fields, expected status and code."""
    ended, call = await start_asking_workflow(api, conversation)
    await tell("decide", ended, **approval(call))
    await api.finished(ended)
    found: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("steer", ended, STEER, 409, "generation_ended"),
        ("decide", ended, approval(call), 409, "generation_ended"),
        ("tool_result", ended, {"call": call["call"], "result": 1}, 409, "generation_ended"),
    ]
    asked, call = await start_asking_workflow(api)
    wrong = approval(call, proposed_digest="0" * 64)
    found += [
        ("steer", asked, {"name": "colour", "value": 1}, 422, "unknown_parameter"),
        ("steer", asked, {"name": "strictness", "value": -1}, 422, "invalid_value"),
        ("steer", asked, {"name": "strictness", "value": "5"}, 422, "invalid_value"),
        ("steer", asked, {"name": "voice", "value": None}, 422, "invalid_value"),
        ("steer", asked, {"name": "strictness"}, 422, "invalid_request"),
        ("decide", asked, wrong, 409, "digest_mismatch"),
        ("decide", asked, approval(call, call="call_unknown"), 404, "not_found"),
        ("decide", asked, approval(call, decision="maybe"), 422, "invalid_request"),
        ("decide", asked, approval(call, decision="modified"), 422, "invalid_request"),
        ("decide", asked, approval(call, arguments={}), 422, "invalid_request"),
        ("decide", asked, approval(call, decision="modified", arguments={"n": 2**64}), 422, "invalid_request"),
        ("tool_result", asked, {"call": call["call"], "result": 1}, 409, "not_started"),
        ("tool_result", asked, {"call": "call_unknown", "result": 1}, 404, "not_found"),
    ]
    refunding = await start_tool_run(api, "/v1", "refund", amount=5)
    [call] = (await wait_until(api, refunding, waits_for_decision))["tool_calls"]
    unfit = approval(call, decision="modified", arguments={"amount": "five"})
    found += [
        ("decide", refunding, unfit, 422, "invalid_arguments"),
        ("tool_result", refunding, {"call": call["call"], "result": 1}, 409, "not_started"),
        ("steer", refunding, STEER, 422, "not_steerable"),
    ]
    shipping = await start_tool_run(api, "/v1", ASKED_SHIP)
    [call] = (await wait_until(api, shipping, waits_for_decision))["tool_calls"]
    found.append(("tool_result", shipping, {"call": call["call"], "result": 1}, 409, "not_started"))
    handed, call = await start_client_tool_run(api)
    found += [
        ("decide", handed, approval(call), 409, "no_decision_needed"),
        ("tool_result", handed, {"call": call["call"]}, 422, "invalid_request"),
        (
            "tool_result",
            handed,
            {"call": call["call"], "error": {"code": "Bad", "message": ""}},
            422,
            "invalid_request",
        ),
    ]
    return found


@on_both
async def test_refused_command_has_status_and_code(api: Api, way: str) -> None:
    """Nothing is appended."""
    conversation = await api.conversation()
    async with command_sender(way, api, conversation) as tell:
        refusals = await make_refusals(api, conversation, tell)
        paths = {generation for _, generation, _, _, _ in refusals}
        before = {path: (await api.http.get(path)).headers["ETag"] for path in paths}
        for do, generation, fields, status, code in refusals:
            refused = await tell(do, generation, **fields)
            assert (refused.status, refused.code) == (status, code), (do, fields, refused)
            assert refused.body["detail"]
            if code == "digest_mismatch":
                found = await api.get(generation)
                assert refused.body["arguments_digest"] == found["tool_calls"][0]["proposed_digest"]
        assert {path: (await api.http.get(path)).headers["ETag"] for path in paths} == before
        for path in paths:
            assert (await tell("cancel", path)).status == 200


@on_both
async def test_second_decision_or_result_of_a_call_is_refused(api: Api, way: str) -> None:
    """A call is decided once and finished once."""
    conversation = await api.conversation()
    async with command_sender(way, api, conversation) as tell:
        generation = await start_tool_run(api, conversation, ASKED_SHIP)
        [call] = (await wait_until(api, generation, waits_for_decision))["tool_calls"]
        assert (await tell("decide", generation, **approval(call))).status == 200
        for again in (approval(call), approval(call, decision="rejected")):
            refused = await tell("decide", generation, **again)
            assert (refused.status, refused.code, refused.body["decision"]) == (409, "already_decided", "approved")
        await wait_until(api, generation, lambda one: one["tool_calls"][0]["status"] == "started")
        fields = {"call": call["call"], "result": 1}
        assert (await tell("tool_result", generation, **fields)).status == 200
        refused = await tell("tool_result", generation, **fields)
        assert (refused.status, refused.code) in {(409, "already_finished"), (409, "generation_ended")}
        log = await api.finished(generation)
        types = [event["type"] for event in log]
        assert (types.count("tool.decided"), types.count("tool.finished")) == (1, 1)


@dataclass
class HeldPost:
    """A POST whose last byte is held back, so that many of them can reach the server at the same moment."""

    connection: Connection
    body: bytes

    @classmethod
    async def open(cls, port: int, path: str, body: dict[str, Any]) -> Self:
        """Sends all but the last byte."""
        poised = cls(await Connection.open(port), json.dumps(body).encode())
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        length = f"Content-Length: {len(poised.body)}\r\n\r\n"
        await poised.connection.send(f"{head}{length}".encode() + poised.body[:-1])
        return poised

    async def answer(self) -> tuple[int, str | None]:
        """Sends the last byte. Returns the status and a problem's code."""
        await self.connection.send(self.body[-1:])
        head = await self.connection.head()
        told = json.loads(await self.connection.body())
        await self.connection.close()
        return head.status, told.get("code")


async def test_one_of_sixty_concurrent_decisions_is_accepted(api: Api) -> None:
    """The run gets the arguments of the accepted decision; the others learn that it is decided."""
    generation, call = await start_asking_workflow(api)
    found: list[tuple[int, str | None]] = []
    path = f"{generation}/decisions"
    decisions = [approval(call, decision="modified", arguments={"page": number}) for number in range(60)]

    async def decide(poised: HeldPost) -> None:
        found.append(await poised.answer())

    with trio.fail_after(PATIENCE):
        all_of_them = [await HeldPost.open(api.port, path, decision) for decision in decisions]
        async with trio.open_nursery() as nursery:
            for poised in all_of_them:
                nursery.start_soon(decide, poised)
    assert found.count((200, None)) == 1
    assert set(found) <= {(200, None), (409, "already_decided"), (409, "generation_ended")}
    log = await api.finished(generation)
    [decided] = [event for event in log if event["type"] == "tool.decided"]
    [result] = [event for event in log if event["type"] == "result"]
    assert result["value"]["arguments"] == decided["arguments"]


@on_both
async def test_unknown_generations_all_get_the_same_error(api: Api, way: str) -> None:
    """Otherwise a stranger could find out which ids exist."""
    conversation = await api.conversation()
    there = await api.generate(conversation)
    right = there.rpartition("/")[2]
    names = [right[:-1], right.upper(), "gen_x", conversation.rpartition("/")[2], right[:-1] + "~", "x" * 300]
    commands: Mapping[str, dict[str, Any]] = {
        "steer": STEER,
        "decide": approval({"call": "call_x", "proposed_digest": "0" * 64}),
        "tool_result": {"call": "call_x", "result": 1},
    }
    async with command_sender(way, api, conversation) as tell:
        for do, fields in commands.items():
            told = [await tell(do, f"/v1/generations/{name}", **fields) for name in names]
            assert {(one.status, one.code, one.body["detail"]) for one in told} == {
                (404, "not_found", told[0].body["detail"])
            }


@on_both
async def test_key_reused_with_another_body_gets_422(api: Api, way: str) -> None:
    """The first command's effect stays."""
    conversation = await api.conversation()
    generation, call = await start_asking_workflow(api, conversation)
    async with command_sender(way, api, conversation) as tell:
        key = new_key()
        first = await tell("steer", generation, key=key, **STEER)
        assert await tell("steer", generation, key=key, **STEER) == first
        other = await tell("steer", generation, key=key, name="strictness", value=6)
        assert (other.status, other.code) == (422, "key_reused")
        key = new_key()
        first = await tell("decide", generation, key=key, **approval(call))
        log = await api.finished(generation)
        assert await tell("decide", generation, key=key, **approval(call)) == first, "after its end too"
        other = await tell("decide", generation, key=key, **approval(call, decision="rejected"))
        assert (other.status, other.code) == (422, "key_reused")
    assert await api.finished(generation) == log


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"workflow": "nothing"}, "unknown_workflow", "workflow"),
        ({"workflow": "asking", "tools": ["refund"]}, "invalid_request", "tools"),
        ({"workflow": "asking", "model": "demo"}, "invalid_request", "model"),
        ({"model": "demo", "tools": ["refund", "nothing"]}, "unknown_tool", "tools.1"),
        (
            {"model": "demo", "tools": ["refund", {"name": "refund", "description": "x"}]},
            "invalid_request",
            "tools.1",
        ),
        ({"model": "demo", "ephemeral": True}, "invalid_request", "ephemeral"),
        ({"model": "demo", "on_crash": "continue"}, "not_available", "on_crash"),
    ],
    ids=json.dumps,
)
async def test_impossible_run_request_gets_422_naming_the_field(
    api: Api, body: dict[str, Any], code: str, field: str
) -> None:
    """Nothing is appended."""
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/generations", body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, field), answer.text
    assert len(await api.log(conversation)) == 1
