"""Messages put into a running answer, from the request to every transport, on a real server and database."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.clients import ndjson, sse
from tests.clients.api import Api, Event, new_key
from tests.clients.websocket import talk

from .event_checks import check_log
from .snapshot_model import fold_conversation, fold_generation, seen_conversation, seen_generation

ASKED = {"role": "user", "content": "in German, please", "deliver": "now"}


async def streaming(api: Api, conversation: str) -> str:
    """The path of an answer that has said something and goes on for a while."""
    path = await api.generate(conversation, tokens=60, rate=30, input="Count.")
    with trio.fail_after(20):
        while True:
            if (await api.get(path))["tokens"] > 2:
                return path
            await trio.sleep(0.02)


async def post(api: Api, conversation: str, asked: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post(f"{conversation}/messages", asked)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def by_websocket(api: Api, conversation: str, asked: dict[str, Any]) -> dict[str, Any]:
    async with talk(api.port, conversation, 0) as socket:
        reply = await socket.command("post", **asked)
        assert reply["status"] == 201, reply
        found: dict[str, Any] = reply["body"]
        return found


@pytest.mark.parametrize("way", [post, by_websocket])
async def test_every_transport_tells_of_it(api: Api, way: Any) -> None:
    conversation = await api.conversation()
    path = await streaming(api, conversation)
    generation = path.rpartition("/")[2]
    told = await way(api, conversation, ASKED)
    assert (told["deliver"], told["into"], told["delivery"]) == ("now", generation, "queued")
    await api.finished(path)
    log = await api.log(conversation)
    check_log(log)
    posted = next(event for event in log if event.get("message") == told["message"])
    assert told == {**posted, "delivery": "queued"}
    (applied,) = [event for event in log if event["type"] == "message.applied"]
    assert (applied["message"], applied["generation"]) == (told["message"], generation)
    assert posted["position"] < applied["position"]
    await check_streams(api, conversation, path, log)
    await check_snapshots(api, conversation, path, log)
    (found,) = [one for one in (await api.get(conversation))["messages"] if one["id"] == told["message"]]
    assert (found["delivery"], found["into"]) == ("applied", generation)
    assert found["applied_position"] == applied["position"]


async def check_streams(api: Api, conversation: str, path: str, log: list[Event]) -> None:
    """Server-sent events, NDJSON and the WebSocket give the same events; the generation's log has its own."""
    mine = [event for event in log if event.get("generation") == path.rpartition("/")[2]]
    text = (await api.http.get(f"{path}/events", params={"format": "sse"})).text
    frames = [frame.data for frame in sse.Parser().feed(text.encode()) if frame.data not in (None, "[DONE]")]
    assert [json.loads(frame or "") for frame in frames] == mine
    text = (await api.http.get(f"{path}/events", params={"format": "ndjson"})).text
    assert ndjson.Parser().feed(text.encode()) == mine
    async with talk(api.port, conversation, 0) as socket:
        await socket.until("caught_up")
    assert socket.events == log


async def check_snapshots(api: Api, conversation: str, path: str, log: list[Event]) -> None:
    """At each position around it, the snapshot is the fold of the events up to there."""
    name, generation = (one.rpartition("/")[2] for one in (conversation, path))
    about = [event["position"] for event in log if event["type"].startswith("message.")]
    for position in sorted({at + n for at in about for n in (-1, 0, 1)} | {log[-1]["position"]}):
        if not 1 <= position <= len(log):
            continue
        found = await api.get(conversation, at=position)
        assert seen_conversation(found) == fold_conversation(log[:position], name)
        if any(event.get("generation") == generation for event in log[:position]):
            assert seen_generation(await api.get(path, at=position)) == fold_generation(log[:position], generation)


async def test_where_no_answer_runs_it_is_returned(api: Api) -> None:
    conversation = await api.conversation()
    told = await post(api, conversation, ASKED)
    assert (told["delivery"], "into" in told) == ("returned", False)
    (found,) = (await api.get(conversation))["messages"]
    assert (found["delivery"], "into" in found) == ("returned", False)


async def test_one_that_is_posted_again_with_its_key_is_answered_as_before(api: Api) -> None:
    """Also when the answer has ended since."""
    conversation = await api.conversation()
    path = await streaming(api, conversation)
    key = {"idempotency_key": new_key()}
    first = await api.post(f"{conversation}/messages", ASKED, **key)
    await api.post(f"{path}/cancel", {})
    again = await api.post(f"{conversation}/messages", ASKED, **key)
    assert (again.status_code, again.json()) == (201, first.json())


@pytest.mark.parametrize(
    ("more", "field"),
    [({"role": "system"}, "deliver"), ({"role": "assistant"}, "deliver"), ({"deliver": "later"}, "deliver")],
)
async def test_what_cannot_be_put_into_an_answer(api: Api, more: dict[str, Any], field: str) -> None:
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/messages", {**ASKED, **more})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
