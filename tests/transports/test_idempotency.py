"""`Idempotency-Key`: a repeated request acts once, on any process, whatever became of the first response."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import trio

from tests.clients import sse
from tests.clients.api import Api, demo, new_key
from tests.clients.http1 import Connection
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

PATIENCE = 30.0
Make = Callable[[str], tuple[str, dict[str, Any]]]
POSTS: dict[str, Make] = {
    "conversation": lambda _: ("/v1/conversations", {"title": "T", "metadata": {"a": 1, "b": [{"c": 2, "d": 3}]}}),
    "message": lambda path: (f"{path}/messages", {"role": "user", "content": "x", "author": "Ada"}),
    "generation": lambda path: (f"{path}/generations", demo(10, 50, input="Hi")),
    "own": lambda _: ("/v1/generations", demo(10, 50, input=[{"role": "user", "content": "Hi"}])),
}
on_posts = pytest.mark.parametrize("make", POSTS.values(), ids=POSTS)


def comparable(answer: httpx2.Response) -> tuple[int, str | None, Any]:
    """The parts of a response that must be the same again."""
    body = answer.json()
    return answer.status_code, answer.headers.get("Location"), (body.get("id"), body.get("position"))


def with_reversed_keys(value: Any) -> Any:
    """The same JSON with the keys of each object in reverse order."""
    if isinstance(value, dict):
        return {name: with_reversed_keys(inner) for name, inner in reversed(value.items())}
    return [with_reversed_keys(inner) for inner in value] if isinstance(value, list) else value


@on_posts
async def test_repeated_request_gets_the_first_response(api: Api, make: Make) -> None:
    """At once and after other events. Nothing is appended."""
    conversation = await api.conversation()
    path, body = make(conversation)
    key = new_key()
    first = await api.post(path, body, idempotency_key=key)
    assert first.status_code in (201, 202)
    if first.status_code == 202:
        await api.finished(first.headers["Location"])
    count = len(await api.log(conversation))
    newest = (await api.get("/v1/conversations", limit=1))["conversations"]
    for again in (body, with_reversed_keys(body)):
        assert comparable(await api.post(path, again, idempotency_key=key)) == comparable(first)
    spaced = json.dumps(body, indent=3).encode()
    headers = {"Idempotency-Key": key, "Content-Type": "application/json; charset=utf-8"}
    assert comparable(await api.http.post(path, content=spaced, headers=headers)) == comparable(first)
    assert len(await api.log(conversation)) == count
    assert (await api.get("/v1/conversations", limit=1))["conversations"] == newest
    await api.message(conversation)
    assert comparable(await api.post(path, body, idempotency_key=key)) == comparable(first)


@on_posts
async def test_key_with_another_body_gets_422(api: Api, make: Make) -> None:
    """The key still stands for the first request."""
    conversation = await api.conversation()
    path, body = make(conversation)
    key = new_key()
    first = await api.post(path, body, idempotency_key=key)
    if first.status_code == 202:
        await api.finished(first.headers["Location"])
    count = len(await api.log(conversation))
    field = "title" if "title" in body else "content" if "content" in body else "input"
    others = [
        {**body, field: "else"},
        {name: value for name, value in body.items() if name != "author"} | {field: "y"},
    ]
    for other in others:
        answer = await api.post(path, other, idempotency_key=key)
        assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")
    assert len(await api.log(conversation)) == count
    assert comparable(await api.post(path, body, idempotency_key=key)) == comparable(first)


@on_posts
async def test_requests_without_key_or_with_other_keys_all_act(api: Api, make: Make) -> None:
    conversation = await api.conversation()
    path, body = make(conversation)
    answers = []
    for headers in ({}, {}, {"idempotency_key": new_key()}, {"idempotency_key": new_key()}):
        answer = await api.post(path, body, **headers)
        answers.append(comparable(answer))
        if answer.status_code == 202:
            await api.finished(answer.headers["Location"])
    assert len({str(answer) for answer in answers}) == 4


async def test_same_key_on_another_path_is_another_key(api: Api) -> None:
    one, two, key = await api.conversation(), await api.conversation(), new_key()
    body = {"role": "user", "content": "x"}
    for conversation in (one, two):
        assert (await api.post(f"{conversation}/messages", body, idempotency_key=key)).status_code == 201
        assert len(await api.log(conversation)) == 2
    await api.finished((await api.post("/v1/generations", demo(), idempotency_key=key)).headers["Location"])
    assert (await api.post("/v1/conversations", {}, idempotency_key=key)).status_code == 201


async def run_concurrently(ask: Callable[[int], Any], count: int) -> list[Any]:
    """Runs the function `count` times concurrently. Returns the results."""
    found = []

    async def one(number: int) -> None:
        found.append(await ask(number))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
    return found


@on_posts
async def test_concurrent_repeats_on_two_processes_act_once(
    api: Api, shared_database: TestDatabase, make: Make
) -> None:
    """Keys hold for the whole database."""
    async with running(shared_database.app_url) as second, Api.open(second.port) as other:
        conversation = await api.conversation()
        path, body = make(conversation)
        key = new_key()

        async def ask(number: int) -> Any:
            return comparable(await (api, other)[number % 2].post(path, body, idempotency_key=key))

        answers = await run_concurrently(ask, 24)
        assert len(answers) == 24
        assert answers == [answers[0]] * 24
        assert answers[0][0] in (201, 202)
        if answers[0][0] == 202:
            await api.finished(answers[0][1])
        assert "Traceback" not in second.logged()


async def test_repeated_streamed_posts_follow_the_same_run(api: Api) -> None:
    """Each gets all of its events."""
    conversation, key = await api.conversation(), new_key()
    body = json.dumps(demo(60, 200)).encode()
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json", "Idempotency-Key": key}

    async def ask(_: int) -> Any:
        async with await Connection.open(api.port) as connection:
            head = await connection.ask("POST", f"{conversation}/generations", headers, body)
            return head.status, head.headers["location"], await connection.body()

    answers = await run_concurrently(ask, 10)
    assert {status for status, _, _ in answers} == {200}
    [location] = {location for _, location, _ in answers}
    log = await api.finished(location)
    answers.append(await ask(0))  # and after its end
    for _, _, stream in answers:
        frames = [frame.data for frame in sse.Parser().feed(stream) if frame.data is not None]
        assert frames[-1] == "[DONE]"
        assert [json.loads(data) for data in frames[:-1]] == log
    plain = await api.post(f"{conversation}/generations", json.loads(body), idempotency_key=key)
    assert (plain.status_code, plain.headers["Location"]) == (202, location)
    assert len((await api.get(conversation))["generations"]) == 1


async def test_key_of_a_refused_request_stays_free(api: Api) -> None:
    """After a 409 or a 422."""
    conversation, key = await api.conversation(), new_key()
    async with api.busy(conversation):
        answer = await api.post(f"{conversation}/generations", demo(), idempotency_key=key)
        assert answer.status_code == 409
    assert (await api.post(f"{conversation}/generations", {"model": 5}, idempotency_key=key)).status_code == 422
    answer = await api.post(f"{conversation}/generations", demo(), idempotency_key=key)
    assert answer.status_code == 202
    await api.finished(answer.headers["Location"])


async def test_cancel_with_key_acts_once(api: Api) -> None:
    conversation, key = await api.conversation(), new_key()
    generation = await api.generate(conversation, tokens=1000, rate=1)
    answers = [await api.post(f"{generation}/cancel", {"reason": "a"}, idempotency_key=key) for _ in range(2)]
    assert [answer.json()["status"] for answer in answers] == ["cancelled"] * 2
    assert comparable(answers[0]) == comparable(answers[1])
    other = await api.post(f"{generation}/cancel", {"reason": "b"}, idempotency_key=key)
    assert other.status_code == 422


async def test_key_survives_a_killed_process(database: TestDatabase) -> None:
    """The key is written with the append."""
    async with running(database.app_url) as server:
        key = new_key()
        async with Api.open(server.port) as api:
            conversation = await api.conversation()
            first = await api.post(f"{conversation}/generations", demo(2), idempotency_key=key)
            await api.finished(first.headers["Location"])
        await server.kill()
        await server.start()
        async with Api.open(server.port) as api:
            again = await api.post(f"{conversation}/generations", demo(2), idempotency_key=key)
            assert comparable(again) == comparable(first)
            assert len((await api.get(conversation))["generations"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 10_000, "\x7f"])
async def test_invalid_key_is_refused(api: Api, key: str) -> None:
    """It must not be treated as no key at all."""
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/messages", {"role": "user", "content": "x"}, idempotency_key=key)
    assert (answer.status_code, answer.headers["Content-Type"]) in (
        (400, "application/problem+json"),
        (422, "application/problem+json"),
        (431, "application/problem+json"),
    )
    assert len(await api.log(conversation)) == 1
