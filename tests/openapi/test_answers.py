"""Real answers of every operation, and real frames, held against the document: to the field, to the header."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from server.web.openapi import document
from tests.clients import ndjson, sse
from tests.clients.api import Api, demo, new_key
from tests.clients.ws import talk

from .contract import validator

STREAMS = ("text/event-stream", "application/x-ndjson")


async def session(api: Api) -> None:
    """One of everything: what works, and what is refused for the most usual reasons."""
    get, post = api.http.get, api.post
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/conversations?limit=1"):
        assert (await get(path)).status_code == 200
    assert (await get("/", headers={"Accept": "text/html"})).status_code == 200
    for path in ("/docs", "/openapi.json"):
        etag = (await get(path)).headers["ETag"]
        assert (await get(path, headers={"If-None-Match": etag})).status_code == 304
    conversation = await api.conversation(title="A title", metadata={"a": 1})
    await api.message(conversation)
    generation = await api.generate(conversation, tokens=50, rate=20, input="Hi")
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
    failed = await post("/v1/generations", {"model": "openai/nothing"})
    assert failed.status_code == 422


async def test_every_operation_answers_as_described(api: Api) -> None:
    """The hook judges each answer; here it is seen that no operation, and no good answer, was left out."""
    seen: set[tuple[str, int]] = set()

    async def note(answer: httpx2.Response) -> None:
        path = answer.request.url.path
        for part in ("conv_", "gen_"):
            if part in path:
                start = path.index(part)
                path = (
                    path[:start]
                    + ("{conversation}" if part == "conv_" else "{generation}")
                    + path[start + len(part) + 26 :]
                )
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
    assert described - seen == {("GET /v1/conversations/{conversation}/ws", 101)}


@pytest.mark.parametrize("named", ["", "&named=1"])
async def test_what_streams_is_as_described(api: Api, named: str) -> None:
    """Events and frames of both streams."""
    conversation = await api.conversation(title="A title", metadata={})
    await api.message(conversation)
    await api.finished(await api.generate(conversation, tokens=3, input="Hi"))
    answer = await api.http.get(f"{conversation}/events?format=sse{named}")
    events = [json.loads(frame.data) for frame in sse.Parser().feed(answer.content) if frame.data is not None]
    lines = ndjson.Parser().feed((await api.http.get(f"{conversation}/events?format=ndjson")).content)
    assert events == lines == await api.log(conversation)
    assert {event["type"] for event in events} >= {"conversation.started", "message.posted", "token"}
    for event in events:
        validator("Event").validate(event)


async def test_frames_of_the_websocket_are_as_described(api: Api) -> None:
    """And so are the commands that the server takes."""
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
        seen = talking.seen
    for frame in seen:
        validator("ServerFrame").validate(frame)
    assert {frame["kind"] for frame in seen} == {"hello", "event", "caught_up", "reply", "error"}


@pytest.mark.parametrize(
    "command",
    [
        {"do": "post", "role": "user", "content": "Hi"},
        {"do": "post", "key": "short", "role": "user", "content": "Hi"},
        {"do": "post", "key": "k" * 16, "content": "Hi"},
        {"do": "dance", "key": "k" * 16},
        {"do": "cancel"},
        {"do": "resync", "after": -1},
        {"do": "resync"},
    ],
    ids=json.dumps,
)
async def test_commands_that_are_not_as_described_are_refused(api: Api, command: dict[str, Any]) -> None:
    assert not validator("ClientCommand").is_valid(command)
    async with talk(api.port, await api.conversation()) as talking:
        await talking.send({"id": "c1", **command})
        await talking.until("error", id="c1")
