"""Commands by POST: create conversations, post messages, start and cancel runs, list conversations.

A client's disconnect must never stop a run.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.clients import sse
from tests.clients.api import TERMINAL, Api, demo
from tests.clients.http1 import Connection

PATIENCE = 30.0


def types(log: list[dict[str, Any]]) -> list[str]:
    """The types of these events."""
    return [event["type"] for event in log]


async def test_new_conversation_has_title_and_metadata(api: Api) -> None:
    """The 201 has its location and its snapshot."""
    asked = {"title": "Größe", "metadata": {"a": {"b": [1, 2.5, None, True, "x"]}, "c": 12345678901234567}}
    answer = await api.post("/v1/conversations", asked)
    assert answer.status_code == 201
    path = answer.headers["Location"]
    assert answer.json() == await api.get(path)
    assert path == f"/v1/conversations/{answer.json()['id']}"
    assert {field: answer.json()[field] for field in asked} == asked
    assert (answer.json()["messages"], answer.json()["generations"], answer.json()["position"]) == ([], [], 1)
    [started] = await api.log(path)
    assert started | asked | {"position": 1, "type": "conversation.started"} == started


async def test_posted_message_is_in_the_log_and_the_snapshot(api: Api) -> None:
    """The 201 has the message's event."""
    conversation = await api.conversation()
    for role in ("user", "system", "tool"):
        asked = {"role": role, "content": f"by {role}\n", "author": "Ada"}
        answer = await api.post(f"{conversation}/messages", asked)
        assert answer.status_code == 201
        event = answer.json()
        assert event == (await api.log(conversation))[-1]
        assert event | asked | {"type": "message.posted", "by": "anonymous"} == event
    snapshot = await api.get(conversation)
    assert [message["role"] for message in snapshot["messages"]] == ["user", "system", "tool"]
    assert (await api.post("/v1/conversations/conv_x/messages", asked)).status_code == 404


async def test_messages_of_a_run_request_are_recorded_before_it(api: Api) -> None:
    """All of them, in order."""
    conversation = await api.conversation()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    log = await api.finished(await api.generate(conversation, input=messages))
    whole = await api.log(conversation)
    assert types(whole)[:4] == ["conversation.started", "message.posted", "message.posted", "generation.requested"]
    assert [{"role": event["role"], "content": event["content"]} for event in whole[1:3]] == messages
    assert whole[3] == log[0]


async def test_accepted_run_is_recorded_before_the_202(api: Api) -> None:
    """Its snapshot can be read at once, and the run goes on by itself."""
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/generations", demo(20, 100, input="Hi"))
    assert answer.status_code == 202
    body, path = answer.json(), answer.headers["Location"]
    assert path == f"/v1/generations/{body['id']}"
    assert body["conversation"] == conversation.rpartition("/")[2]
    assert body["status"] in ("queued", "running")
    assert (await api.log(conversation))[2]["type"] == "generation.requested"
    assert (await api.finished(path))[-1]["type"] == "generation.completed"
    assert (await api.post("/v1/conversations/conv_x/generations", demo())).status_code == 404


async def test_run_without_conversation_gets_a_new_one(api: Api) -> None:
    """The new conversation can be continued."""
    first, second = await api.generate(input="a"), await api.generate(input="b")
    names = [(await api.get(path))["conversation"] for path in (first, second)]
    assert names[0] != names[1]
    await api.finished(first)
    conversation = f"/v1/conversations/{names[0]}"
    assert types(await api.log(conversation))[:2] == ["conversation.started", "message.posted"]
    await api.finished(await api.generate(conversation, input="c"))
    assert len((await api.get(conversation))["generations"]) == 2


@pytest.mark.parametrize("asked", [{}, {"if_running": "reject"}])
async def test_second_run_of_a_conversation_gets_409(api: Api, asked: dict[str, Any]) -> None:
    """Nothing is recorded. Messages, and runs in other conversations, are accepted meanwhile."""
    conversation = await api.conversation()
    async with api.busy(conversation) as generation:
        before = await api.reached(conversation, 4)
        answer = await api.post(f"{conversation}/generations", demo(input="no", **asked))
        assert (answer.status_code, answer.json()["code"]) == (409, "generation_running")
        streamed = await api.post(f"{conversation}/generations", demo(**asked), accept="text/event-stream")
        assert (streamed.status_code, streamed.json()["code"]) == (409, "generation_running")
        assert await api.log(conversation) == before
        await api.finished(await api.generate())
        await api.message(conversation)
    assert (await api.get(generation))["status"] == "cancelled"
    await api.finished(await api.generate(conversation))


async def test_twenty_concurrent_run_requests_start_one_run(api: Api) -> None:
    """The others get 409."""
    conversation = await api.conversation()
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await api.post(f"{conversation}/generations", demo(1000, 1))).status_code)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
    assert sorted(statuses) == [202] + [409] * 19
    [generation] = (await api.get(conversation))["generations"]
    await api.post(f"/v1/generations/{generation['id']}/cancel", {})


async def test_cancel_has_ended_the_run_when_it_returns(api: Api) -> None:
    """The last event is in the log then, and nothing follows it."""
    conversation = await api.conversation()
    generation = await api.generate(conversation, tokens=100_000, rate=500)
    await api.reached(generation, 20)
    answer = await api.post(f"{generation}/cancel", {"reason": "enough"})
    log = await api.log(generation)
    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert isinstance(answer.json()["upstream_closed"], bool)
    assert answer.json()["position"] == log[-1]["position"]
    assert log[-1] | {"type": "generation.cancelled", "reason": "enough", "by": "anonymous"} == log[-1]
    assert types(log).count("generation.cancelled") == 1
    again = await api.post(f"{generation}/cancel", {"reason": "again"})
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    await api.finished(await api.generate(conversation))
    assert await api.log(generation) == log


async def test_cancel_of_a_finished_run_returns_its_snapshot(api: Api) -> None:
    """Nothing is appended. The body is optional."""
    generation = await api.generate()
    log = await api.finished(generation)
    for answer in (await api.post(f"{generation}/cancel", {}), await api.http.post(f"{generation}/cancel")):
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await api.log(generation) == log
    assert (await api.post("/v1/generations/gen_x/cancel", {})).status_code == 404


async def test_concurrent_cancels_leave_one_terminal_event(api: Api) -> None:
    """Whether a cancel or the run's own end comes first."""
    for tokens in (1, 5, 20, 50):
        generation = await api.generate(tokens=tokens)
        answers: list[str] = []

        async def cancel(path: str = generation, answers: list[str] = answers) -> None:
            answer = await api.post(f"{path}/cancel", {})
            assert answer.status_code == 200
            answers.append(answer.json()["status"])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(cancel)
        log = await api.finished(generation)
        assert [kind for kind in types(log) if kind in TERMINAL] == types(log)[-1:]
        assert set(answers) == {types(log)[-1].removeprefix("generation.")}


@pytest.mark.parametrize("heard", [0, 1, 50, 2000])
async def test_disconnect_from_a_streamed_post_does_not_stop_the_run(api: Api, heard: int) -> None:
    """The client can read the rest from its cursor."""
    conversation = await api.conversation()
    body = json.dumps(demo(60, 100)).encode()
    parser = sse.Parser()
    events: list[dict[str, Any]] = []
    async with await Connection.open(api.port) as connection:
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        head = await connection.ask("POST", f"{conversation}/generations", headers, body)
        data = b""
        while len(data) < heard:
            data += await connection.receive()
        events += [json.loads(frame.data) for frame in parser.feed(data[:heard]) if frame.data is not None]
    generation = head.headers["location"]
    log = await api.finished(generation)
    assert (len(log), log[-1]["type"]) == (63, "generation.completed")
    rest = await api.http.get(f"{generation}/events?limit=5000", headers={"Last-Event-ID": parser.last_event_id})
    assert events + rest.json()["events"] == log


async def test_disconnect_before_the_response_runs_completely_or_not_at_all(api: Api) -> None:
    """A request that was recorded must run to its end."""
    conversation = await api.conversation()
    body = json.dumps(demo(5, 100)).encode()
    for _ in range(10):
        async with await Connection.open(api.port) as connection:
            head = f"POST {conversation}/generations HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            await connection.send(head.encode() + body)
    with trio.fail_after(PATIENCE):
        for generation in (await api.get(conversation))["generations"]:
            assert len(await api.finished(f"/v1/generations/{generation['id']}")) == 8


async def test_list_of_conversations_is_paged_newest_first(api: Api) -> None:
    """Each appears once; conversations made meanwhile do not disturb later pages."""
    made = [(await api.conversation(title=f"number {n}")).rpartition("/")[2] for n in range(7)]
    page = await api.get("/v1/conversations", limit=3)
    rows = page["conversations"]
    while page["next"] is not None:
        await api.conversation()
        limit = 3 if len(rows) < 20 else 100
        page = await api.get("/v1/conversations", limit=limit, before=page["next"])
        assert len(page["conversations"]) <= limit
        rows += page["conversations"]
    assert [row["id"] for row in rows[:7]] == made[::-1]
    assert [row["title"] for row in rows[:7]] == [f"number {n}" for n in range(6, -1, -1)]
    assert len({row["id"] for row in rows}) == len(rows)
    bad = await api.http.get("/v1/conversations", params={"before": "not one of yours"})
    assert (bad.status_code, bad.headers["Content-Type"]) == (400, "application/problem+json")
