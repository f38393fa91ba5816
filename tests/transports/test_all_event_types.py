"""A log with every event type and field, read on every transport and by the command line.

It holds reasoning, pieces of tool calls, a refusal, long integers, and fields that only the provider may see
again (`carry`). Those must appear nowhere; all else must appear exactly as written.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from eventstore import NO_STREAM, Append, Event, Key, NewEvent
from server import event_types
from server.config.web_addresses import PublicUrl
from server.conversations import idempotency_keys
from server.ids import new_id
from server.webhooks import webhook_messages
from server.workflows import digest
from tests.cli.command_runner import tokentape
from tests.clients import ndjson, sse
from tests.clients.api import Api
from tests.clients.websocket import talk
from tests.harness.databases import TestDatabase
from tests.openapi.contract import validator

from .snapshot_model import fold_generation, seen_generation
from .test_websocket_errors import open_store

SECRET = "c2lnbmF0dXJl"
LONG = 2**53 + 1
"""An integer that a double cannot hold."""
ARGUMENTS = {"id": LONG, "list": [-LONG, 2**63 - 1, -(2**63)], "to": "a\u202eb"}
MESSAGE = "msg_" + "0" * 26
CARRY = {"answer": {"anthropic": [{"signature": SECRET}]}, "calls": {"x": {"thought_signature": SECRET}}}


def make_events(generation: str, call: str) -> list[NewEvent]:
    """All events, from the first of the conversation on."""
    its_digest = digest(ARGUMENTS)
    return [
        event_types.conversation_started("T", {"id": LONG}),
        event_types.generation_requested(
            generation, model="demo", parameters={"seed": LONG}, steering={"level": LONG}, by="anonymous"
        ),
        event_types.generation_started(generation, 1, "worker-1"),
        event_types.reasoning(generation, "let me "),
        event_types.reasoning(generation, "see\u2028 é"),
        event_types.token(generation, "so "),
        event_types.message_applied(generation, MESSAGE),
        event_types.tool_arguments(generation, call, '{"id": ', "refund"),
        event_types.tool_arguments(generation, call, f"{LONG}}}"),
        # Their own word in an app's result is none of ours.
        event_types.step_finished(generation, "answer/1", {"carry": "mine", "id": LONG}, CARRY),
        event_types.step_finished(generation, "step x 1", {"carry": SECRET[::-1]}),
        event_types.tool_proposed(
            generation,
            call,
            name="refund",
            arguments=ARGUMENTS,
            arguments_digest=its_digest,
            needs_approval=True,
            step="answer/1",
            hidden_characters=["U+202E"],
        ),
        event_types.tool_decided(
            generation,
            call,
            decision="modified",
            proposed_digest=its_digest,
            arguments={"id": LONG + 2},
            arguments_digest=digest({"id": LONG + 2}),
            reason=None,
            by="anonymous",
        ),
        event_types.tool_started(generation, call),
        event_types.tool_finished(generation, call, {"result": [LONG]}),
        event_types.steering_changed(generation, "level", LONG + 2, "anonymous"),
        event_types.result(generation, {"id": LONG}),
        event_types.generation_completed(generation, "refusal", {"output_tokens": 3}, 12, "I will not."),
    ]


async def store_log(url: str, conversation: str, generation: str, news: list[NewEvent]) -> Sequence[Event]:
    """Writes a log into the database, with the key by which the generation is found."""
    key = Key(idempotency_keys.GENERATION, generation)
    async with open_store(url) as store:
        await store.append(Append(conversation, tuple(news[:2]), NO_STREAM, keys=(key,)))
        await store.append(Append(conversation, tuple(news[2:])))
        return (await store.read(conversation, 0, 100)).events


@pytest.fixture
async def paths(shared_database: TestDatabase) -> tuple[str, str]:
    """Paths of the conversation and of the generation."""
    conversation, generation = new_id("conv"), new_id("gen")
    await store_log(shared_database.app_url, conversation, generation, make_events(generation, new_id("call")))
    return f"/v1/conversations/{conversation}", f"/v1/generations/{generation}"


Read = Callable[[Api, str, str], Awaitable[tuple[str, list[dict[str, Any]]]]]
"""Reads a log. Returns the raw text and its events, without the conversation's first one."""


async def _get(api: Api, path: str, **query: Any) -> str:
    answer = await api.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.text


async def page(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    text = await _get(api, f"{conversation}/events", after=1)
    return text, json.loads(text)["events"]


async def long_poll(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    text = await _get(api, f"{generation}/events", wait=5)
    return text, json.loads(text)["events"]


async def event_stream(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    text = await _get(api, f"{generation}/events", format="sse", named=1)
    datas = [frame.data for frame in sse.Parser().feed(text.encode()) if frame.data not in (None, "[DONE]")]
    return text, [json.loads(data or "") for data in datas]


async def lines(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    text = await _get(api, f"{generation}/events", format="ndjson")
    return text, ndjson.Parser().feed(text.encode())


async def websocket(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    async with talk(api.port, conversation, 1) as socket:
        await socket.until("caught_up")
        await socket.command("resync", after=1)
        await socket.until("caught_up")
    half = len(socket.events) // 2
    assert socket.events[:half] == socket.events[half:]
    return json.dumps(socket.seen), socket.events[:half]


async def tail(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    return await _command(api, "tail", conversation.rpartition("/")[2], "--until-end", "--after", "1")


async def replay(api: Api, conversation: str, generation: str) -> tuple[str, list[dict[str, Any]]]:
    return await _command(api, "replay", generation.rpartition("/")[2], "--instant")


async def _command(api: Api, *words: str) -> tuple[str, list[dict[str, Any]]]:
    url = ("--url", f"http://127.0.0.1:{api.port}")
    people, programs = await tokentape(*words, *url), await tokentape(*words, *url, "--json")
    assert (people.status, programs.status) == (0, 0), people.err + programs.err
    return people.out + programs.out, [json.loads(line) for line in programs.out.splitlines()]


WAYS: list[Read] = [page, long_poll, event_stream, lines, websocket, tail, replay]


@pytest.mark.parametrize("read", WAYS, ids=lambda read: read.__name__)
async def test_every_transport_gives_all_fields_but_carry(api: Api, paths: tuple[str, str], read: Read) -> None:
    """Each event is also valid by the schema."""
    text, found = await read(api, *paths)
    assert SECRET not in text
    assert "thought_signature" not in text
    call = next(event["call"] for event in found if "call" in event)
    expected = make_events(paths[1].rpartition("/")[2], call)[1:]
    assert [event["type"] for event in found] == [new.type for new in expected]
    for event, new in zip(found, expected, strict=True):
        fields = json.loads(new.data)
        fields.pop("carry", None)
        common = ("position", "type", "at", "generation")
        assert {name: value for name, value in event.items() if name not in common} == fields
        validator("Event").validate(event)


async def test_snapshots_at_every_position_hide_carry(api: Api, paths: tuple[str, str]) -> None:
    """Of the generation, and within its conversation's."""
    conversation, generation = paths
    texts = [await _get(api, conversation), await _get(api, generation)]
    texts += [await _get(api, generation, at=position) for position in range(2, 19)]
    texts += [await _get(api, conversation, at=position) for position in range(1, 19)]
    assert SECRET not in "".join(texts)
    log = await api.log(conversation)
    for position, text in enumerate(texts[2:19], 2):
        expected = fold_generation(log[:position], generation.rpartition("/")[2])
        assert seen_generation(json.loads(text)) == expected
    found = json.loads(texts[1])
    assert json.loads(texts[0])["generations"] == [found] == [json.loads(texts[18])]
    assert (found["text"], found["reasoning"], found["refusal"]) == ("so ", "let me see\u2028 é", "I will not.")
    assert json.loads(texts[0])["metadata"] == {"id": LONG}
    assert (found["parameters"], found["steering"]) == ({"seed": LONG}, {"level": LONG + 2})
    (call,) = found["tool_calls"]
    assert (call["arguments"], call["result"], found["result"]) == ({"id": LONG + 2}, [LONG], {"id": LONG})
    (proposed,) = json.loads(await _get(api, generation, at=12))["tool_calls"]
    assert (proposed["arguments"], proposed["hidden_characters"]) == (ARGUMENTS, ["U+202E"])


@pytest.mark.parametrize(
    ("types", "kept"),
    [
        ("reasoning", ["reasoning"] * 2),
        ("tool.arguments", ["tool.arguments"] * 2),
        ("token,reasoning", ["reasoning", "reasoning", "token"]),
    ],
)
async def test_types_query_selects_and_excludes_event_types(
    api: Api, paths: tuple[str, str], types: str, kept: list[str]
) -> None:
    for of in paths:
        found = json.loads(await _get(api, f"{of}/events", types=types))["events"]
        assert [event["type"] for event in found] == kept
    without = json.loads(
        await _get(api, f"{paths[1]}/events", types=",".join(f"-{one}" for one in types.split(",")))
    )
    assert not {event["type"] for event in without["events"]} & set(kept)


async def test_webhook_body_hides_carry(shared_database: TestDatabase) -> None:
    """Otherwise it holds the event as every transport shows it."""
    conversation, generation = new_id("conv"), new_id("gen")
    news = make_events(generation, new_id("call"))
    log = await store_log(shared_database.app_url, conversation, generation, news)
    bodies = [webhook_messages.end_body(generation, conversation, event, PublicUrl()) for event in log]
    assert SECRET in "".join(event.data for event in log)
    assert SECRET.encode() not in b"".join(bodies)
    assert json.loads(bodies[-1])["data"]["event"]["refusal"] == "I will not."


@pytest.mark.parametrize("kind", ["text", "reasoning"])
async def test_long_text_is_left_out_of_the_snapshot_of_a_conversation(
    api: Api, shared_database: TestDatabase, kind: str
) -> None:
    """Its size and the path of its events stand there instead; the generation's own snapshot has it."""
    conversation, generation = new_id("conv"), new_id("gen")
    long, most = "é" * 40_000, "é" * 32_768
    say, other = event_types.reasoning, event_types.token
    if kind == "text":
        say, other = other, say
    news = [
        *make_events(generation, new_id("call"))[:3],
        say(generation, long),
        other(generation, most),
        event_types.generation_completed(generation, "stop", None, 1),
    ]
    await store_log(shared_database.app_url, conversation, generation, news)
    (found,) = (await api.get(f"/v1/conversations/{conversation}"))["generations"]
    assert (found[kind], found[f"{kind}_bytes"]) == (None, 80_000)
    left = {"text": "reasoning", "reasoning": "text"}[kind]
    assert found[left] == most
    assert f"{left}_bytes" not in found
    there = await api.get(found[f"{kind}_events"])
    assert "".join(event["delta"] for event in there["events"] if event["type"] == say("", "").type) == long
    assert (await api.get(f"/v1/generations/{generation}"))[kind] == long
