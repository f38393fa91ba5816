"""Real answers of every operation, and real frames, held against the document: to the field, to the header."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx2
import pytest

from server.event_types import EventType
from server.web.openapi import document
from server.web.openapi.operations import EXAMPLE_BODIES
from tests.clients import ndjson, sse
from tests.clients.api import Api, demo, new_key
from tests.clients.websocket import talk

from .contract import validator
from .controls import NOBODY, agent, approval, paused, until, workflow

CLIENT_TOOL = EXAMPLE_BODIES["A model with a tool that you run"]
WORKFLOW = EXAMPLE_BODIES["A workflow"]

STREAMS = ("text/event-stream", "application/x-ndjson")


async def upload_files(api: Api) -> None:
    """Files, taken in and given out in every way."""
    send, get = api.http.post, api.http.get
    raw = {"Content-Type": "text/plain"}
    made = await send("/v1/files", content=b"a file", headers=raw)
    assert made.status_code == 201
    assert (await send("/v1/files", files={"file": ("name.txt", b"a file")})).status_code == 200
    assert (await send("/v1/files", content=b"", headers=raw)).status_code == 422
    assert (await send("/v1/files", files={"other": b"x"})).status_code == 422
    assert (await send("/v1/files", json={})).status_code == 415
    path = made.headers["Location"]
    found = await get(path)
    assert (found.status_code, found.content) == (200, b"a file")
    assert (await get(path, headers={"Range": "bytes=0-1"})).content == b"a "
    assert (await get(path, headers={"Range": "bytes=6-"})).status_code == 416
    assert (await get(path, headers={"If-None-Match": found.headers["ETag"]})).status_code == 304
    assert (await get(f"/v1/files/{'0' * 64}")).status_code == 404


async def session(api: Api) -> None:
    """One of everything: what works, and what is refused for the most usual reasons."""
    get, post = api.http.get, api.post
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/conversations?limit=1"):
        assert (await get(path)).status_code == 200
    assert (await get("/", headers={"Accept": "text/html"})).status_code == 200
    for path in ("/docs", "/openapi.json"):
        etag = (await get(path)).headers["ETag"]
        assert (await get(path, headers={"If-None-Match": etag})).status_code == 304
    await upload_files(api)
    conversation = await api.conversation(title="A title", metadata={"a": 1})
    await api.message(conversation)
    generation = await api.generate(conversation, tokens=50, rate=20, input="Hi")
    assert (await get(generation, params={"pending": "202"})).status_code == 202
    assert (await post(f"{conversation}/generations", demo())).status_code == 409
    assert (await get(generation)).headers["Retry-After"]
    assert (await get(conversation)).headers["Retry-After"]
    for form in ("json", "sse", "ndjson"):
        assert (await get(f"{generation}/events?format={form}&wait=0.01")).status_code == 200
        assert (await get(f"{conversation}/events?format={form}")).status_code == 200
    assert (await post(f"{generation}/cancel", {"reason": "enough"})).status_code == 200
    await api.finished(generation)
    for path in (generation, conversation):
        etag = (await get(path)).headers["ETag"]
        held = {"If-None-Match": etag, "Prefer": "wait=0"}
        assert (await get(path, headers=held)).status_code == 304
        assert (await get(f"{path}?at=999999")).status_code == 400
        assert (await get(f"{path}?at=0")).status_code == 404
        assert (await get(f"{path}/events?after=x")).status_code == 400
    assert (await get(f"{generation}/events?format=sse&after=now")).status_code == 204
    body = json.dumps(demo(3)).encode()
    for path in ("/v1/generations", f"{await api.conversation()}/generations"):
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        assert (await api.http.post(path, content=body, headers=headers)).status_code == 200
        assert (await post(path, demo(3), idempotency_key=new_key())).status_code in (202, 409)
        for wrong in ({"model": "nobody/x"}, demo(-1), {**demo(), "webhook": "x"}, {"model": 1}, {}):
            assert (await post(path, wrong)).status_code in (409, 422)
    for path in ("/v1/conversations", f"{conversation}/messages", f"{generation}/cancel"):
        assert (await post(path, {"no": 1})).status_code == 422
        assert (await post(path, {}, idempotency_key="a b")).status_code in (400, 422)
        assert (
            await api.http.post(path, content=b"{}", headers={"Origin": "http://evil.example"})
        ).status_code == 403
        assert (await api.http.post(path, content=b"x")).status_code == 415
        assert (await api.http.post(path, json={"reason": "x" * 2_000_000})).status_code == 413
    assert (await get(f"{conversation}/ws")).status_code == 426
    assert (await get("/v1/diagnostics/stream?chunks=3&interval=0.001")).status_code == 200
    assert (await get("/v1/diagnostics/stream?chunks=3&after=3")).status_code == 204
    assert (await get("/v1/diagnostics/stream?chunks=0")).status_code == 400
    assert (await get("/v1/webhooks/public-key")).status_code == 200
    assert (await get("/v1/session")).status_code == 200
    assert (await api.http.post("/v1/session")).status_code == 200
    assert (await api.http.delete("/v1/session")).status_code == 204
    assert (await api.http.post(f"{conversation}/tickets")).status_code == 201
    assert (await post(f"{generation}/tickets", {"transport": "sse"})).status_code == 201
    assert (await post(f"{generation}/tickets", {"transport": "websocket"})).status_code == 422
    failed = await post("/v1/generations", {"model": "openai/nothing"})
    assert failed.status_code == 422
    await talk_back(api)


async def talk_back(api: Api) -> None:
    """To a model with a tool, and to a workflow; each answer once, and what is refused."""
    get, post = api.http.get, api.post
    generation, call = await agent(api, webhook={"url": NOBODY, "events": ["waiting", "ended"]})
    await until(api, f"{generation}/webhook", lambda one: one["waits"] and one["waits"][0]["tries"])
    decide, finish = f"{generation}/decisions", f"{generation}/tools/{call['call']}/result"
    assert (await post(f"{generation}/steer", {"name": "x", "value": 1})).json()["code"] == "not_steerable"
    wrong = {**approval(call), "proposed_digest": "0" * 64}
    assert (await post(decide, wrong)).json()["arguments_digest"] == call["proposed_digest"]
    assert (await post(finish, {"result": 1})).json()["code"] == "not_started"
    assert (await post(decide, approval(call))).status_code == 200
    assert (await post(decide, approval(call))).json()["decision"] == "approved"
    await until(api, generation, lambda one: one["tool_calls"][0]["status"] == "started")
    for body in ({}, {"result": 1, "error": None}, {"error": None}, {"error": {"code": "X", "message": ""}}):
        assert (await post(finish, body)).status_code == 422, body
    assert (await post(finish, {"error": {"code": "no_such_order", "message": "None."}})).status_code == 200
    assert (await post(finish, {"result": 1})).status_code == 409
    await api.finished(generation)
    assert (await post(decide, approval(call))).json()["code"] == "generation_ended"
    assert (await get(f"{generation}/webhook")).json()["url"] == NOBODY.removesuffix("/hook")
    await until(api, f"{generation}/webhook", lambda one: one["tries"])
    generation, call = await workflow(api)
    assert (await get(f"{generation}/webhook")).status_code == 404
    steer = f"{generation}/steer"
    assert (await post(steer, {"name": "strictness", "value": 0.8})).json()["steering"] == {"strictness": 0.8}
    assert (await post(steer, {"name": "strictness", "value": 8})).json()["code"] == "invalid_value"
    assert (await post(steer, {"name": "no", "value": 1})).json()["code"] == "unknown_parameter"
    assert (await post(f"{generation}/decisions", approval(call))).status_code == 200
    assert (await api.finished(generation))[-1]["type"] == "generation.completed"
    assert (await get(generation)).json()["result"] == {"published": True, "strictness": 0.8}
    generation = await paused(api)
    for tokens in (1, 0, None):
        assert (await post(f"{generation}/budget", {"tokens": tokens})).status_code == 422
    assert (await post(f"{generation}/budget", {"tokens": 1_000})).json()["budget"]["tokens"] == 1_000
    assert (await api.finished(generation))[-1]["type"] == "generation.completed"
    assert (await post(f"{generation}/budget", {"tokens": 2_000})).json()["code"] == "generation_ended"
    unpriced = {**demo(), "budget": {"cost": 1}}
    assert (await post("/v1/generations", unpriced)).json()["code"] == "unknown_price"
    for asked in ({**WORKFLOW, "input": {"pages": 0}}, {"workflow": "none"}, {**CLIENT_TOOL, "tools": ["none"]}):
        assert (await post("/v1/generations", asked)).status_code == 422
    assert (await post("/v1/generations", {**demo(), "webhook": "ftp://x"})).json()["code"] == "invalid_webhook"
    conversation = await api.conversation()
    async with api.busy(conversation):
        queued = await post(f"{conversation}/generations", {**demo(1), "if_running": "queue"})
        assert (queued.status_code, queued.json()["status"]) == (202, "queued")


async def test_every_operation_answers_as_described(api: Api) -> None:
    """The hook judges each answer; here it is seen that no operation, and no good answer, was left out."""
    seen: set[tuple[str, int]] = set()

    async def note(answer: httpx2.Response) -> None:
        path = answer.request.url.path
        for prefix, name in (("conv", "conversation"), ("gen", "generation"), ("call", "call")):
            path = re.sub(f"{prefix}_[0-9A-Z]{{26}}", f"{{{name}}}", path)
        path = re.sub("[0-9a-f]{64}", "{digest}", path)
        seen.add((f"{answer.request.method} {path}", answer.status_code))

    api.http.event_hooks["response"].append(note)
    api.http.event_hooks = api.http.event_hooks
    await session(api)
    described = {
        (f"{method.upper()} {path}", int(status))
        for path, methods in document()["paths"].items()
        for method, one in methods.items()
        for status in one["responses"]
        if int(status) < 400
    }
    # Here nobody has to sign in; tests/web/test_sessions.py does.
    assert described - seen == {("GET /v1/conversations/{conversation}/ws", 101), ("POST /v1/session", 201)}


@pytest.mark.parametrize("named", ["", "&named=1"])
async def test_what_streams_is_as_described(api: Api, named: str) -> None:
    """Events and frames of both streams."""
    conversation = await api.conversation(title="A title", metadata={})
    await api.message(conversation)
    await api.finished(await api.generate(conversation, tokens=3, input="Hi"))
    graded, call = await workflow(api, conversation)
    await api.post(f"{graded}/steer", {"name": "strictness", "value": 1})
    await api.post(f"{graded}/decisions", approval(call))
    await api.finished(graded)
    await api.post(f"{(await agent(api, conversation))[0]}/cancel", {})
    held = await paused(api, conversation)
    await api.post(f"{conversation}/messages", {"role": "user", "content": "More.", "deliver": "now"})
    await api.post(f"{held}/budget", {"tokens": 1_000})
    await api.finished(held)
    answer = await api.http.get(f"{conversation}/events?format=sse{named}")
    events = [json.loads(frame.data) for frame in sse.Parser().feed(answer.content) if frame.data is not None]
    lines = ndjson.Parser().feed((await api.http.get(f"{conversation}/events?format=ndjson")).content)
    assert events == lines == await api.log(conversation)
    assert {event["type"] for event in events} == {kind.value for kind in EventType} - {
        "generation.interrupted",
        "generation.failed",
        "reasoning",  # the demo does not think; tests/transports/test_all_event_types.py
        "tool.arguments",
        "tool.approval",  # without keys nobody is one of several people
    }
    for event in events:
        validator("Event").validate(event)


async def test_frames_of_the_websocket_are_as_described(lasting_api: Api) -> None:
    """And so are the commands that the server takes."""
    api = lasting_api
    conversation = await api.conversation()
    sent: list[dict[str, Any]] = [
        {"do": "post", "key": new_key(), "id": "c1", "role": "user", "content": "Hi"},
        {"do": "generate", "key": new_key(), "id": 2, **demo(2, 5)},
        {"do": "resync", "id": "c3", "after": 0},
        {"do": "resync", "after": "now"},
    ]
    async with talk(api.port, conversation) as talking:
        for command in sent:
            validator("ClientCommand").validate(command)
            await talking.send(command)
        reply = await talking.until("reply", id=2)
        cancel = {"do": "cancel", "id": "c5", "generation": reply["body"]["id"], "reason": "enough"}
        validator("ClientCommand").validate(cancel)
        await talking.send(cancel)
        await talking.until("reply", id="c5")
        await talking.send({"do": "dance", "id": "c6"})
        await talking.until("error", id="c6")
        await talking.send("{")
        await talking.until("error")
        async with aclosing(controls(api, conversation)) as commands:
            async for command in commands:
                validator("ClientCommand").validate(command)
                await talking.send(command)
                await talking.until("reply", id=command["id"], status=200)
        seen = talking.seen
    for frame in seen:
        validator("ServerFrame").validate(frame)
    assert {frame["kind"] for frame in seen} == {"hello", "presence", "event", "caught_up", "reply", "error"}


async def controls(api: Api, conversation: str) -> AsyncGenerator[dict[str, Any], None]:
    """Commands that talk back, each when it can be carried out."""
    graded, asked = await workflow(api, conversation)
    named = {"generation": graded.rpartition("/")[2]}
    yield {"do": "steer", "key": new_key(), "id": "s", **named, "name": "strictness", "value": 0.1}
    yield {"do": "decide", "key": new_key(), "id": "d", **named, **approval(asked)}
    await api.finished(graded)
    answered, call = await agent(api, conversation)
    named = {"generation": answered.rpartition("/")[2]}
    yield {"do": "decide", "key": new_key(), "id": "e", **named, **approval(call)}
    await until(api, answered, lambda one: one["tool_calls"][0]["status"] == "started")
    yield {"do": "tool_result", "key": new_key(), "id": "t", **named, "call": call["call"], "result": None}


@pytest.mark.parametrize(
    "command",
    [
        {"do": "post", "role": "user", "content": "Hi"},
        {"do": "post", "key": "short", "role": "user", "content": "Hi"},
        {"do": "post", "key": "k" * 16, "content": "Hi"},
        {"do": "dance", "key": "k" * 16},
        {"do": "cancel"},
        {"do": "steer", "key": "k" * 16, "name": "x", "value": 1},
        {"do": "steer", "generation": "gen_x", "name": "x", "value": 1},
        {"do": "decide", "key": "k" * 16, "generation": "gen_x", "call": "call_x", "decision": "maybe"},
        {"do": "tool_result", "key": "k" * 16, "generation": "gen_x", "result": 1},
        {"do": "tool_result", "key": "k" * 16, "generation": "gen_x", "call": "call_x"},
        {"do": "generate", "key": "k" * 16, "model": "demo", "workflow": "grading"},
        {"do": "resync", "after": -1},
        {"do": "resync"},
    ],
    ids=json.dumps,
)
async def test_commands_that_are_not_as_described_are_refused(lasting_api: Api, command: dict[str, Any]) -> None:
    assert not validator("ClientCommand").is_valid(command)
    async with talk(lasting_api.port, await lasting_api.conversation()) as talking:
        await talking.send({"id": "c1", **command})
        await talking.until("error", id="c1")
