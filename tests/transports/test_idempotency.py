"""`Idempotency-Key`: a request sent again acts once, on any process, whatever became of the first answer."""

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


def told(answer: httpx2.Response) -> tuple[int, str | None, Any]:
    """What has to be the same again."""
    body = answer.json()
    return answer.status_code, answer.headers.get("Location"), (body.get("id"), body.get("position"))


def turned(value: Any) -> Any:
    """The same JSON with each object's keys the other way round."""
    if isinstance(value, dict):
        return {name: turned(inner) for name, inner in reversed(value.items())}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


@on_posts
async def test_the_same_again(api: Api, make: Make) -> None:
    """The first answer, at once and after other things have happened; nothing appended."""
    conversation = await api.conversation()
    path, body = make(conversation)
    key = new_key()
    first = await api.post(path, body, idempotency_key=key)
    assert first.status_code in (201, 202)
    if first.status_code == 202:
        await api.finished(first.headers["Location"])
    count = len(await api.log(conversation))
    newest = (await api.get("/v1/conversations", limit=1))["conversations"]
    for again in (body, turned(body)):
        assert told(await api.post(path, again, idempotency_key=key)) == told(first)
    spaced = json.dumps(body, indent=3).encode()
    headers = {"Idempotency-Key": key, "Content-Type": "application/json; charset=utf-8"}
    assert told(await api.http.post(path, content=spaced, headers=headers)) == told(first)
    assert len(await api.log(conversation)) == count
    assert (await api.get("/v1/conversations", limit=1))["conversations"] == newest
    await api.message(conversation)
    assert told(await api.post(path, body, idempotency_key=key)) == told(first)


@on_posts
async def test_another_body(api: Api, make: Make) -> None:
    """422, nothing appended; the key still stands for the first."""
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
    assert told(await api.post(path, body, idempotency_key=key)) == told(first)


@on_posts
async def test_without_a_key_or_with_another_one_it_is_another(api: Api, make: Make) -> None:
    """Each acts."""
    conversation = await api.conversation()
    path, body = make(conversation)
    answers = []
    for headers in ({}, {}, {"idempotency_key": new_key()}, {"idempotency_key": new_key()}):
        answer = await api.post(path, body, **headers)
        answers.append(told(answer))
        if answer.status_code == 202:
            await api.finished(answer.headers["Location"])
    assert len({str(answer) for answer in answers}) == 4


async def test_a_keys_scope_is_its_path(api: Api) -> None:
    """The same key elsewhere is another one."""
    one, two, key = await api.conversation(), await api.conversation(), new_key()
    body = {"role": "user", "content": "x"}
    for conversation in (one, two):
        assert (await api.post(f"{conversation}/messages", body, idempotency_key=key)).status_code == 201
        assert len(await api.log(conversation)) == 2
    await api.finished((await api.post("/v1/generations", demo(), idempotency_key=key)).headers["Location"])
    assert (await api.post("/v1/conversations", {}, idempotency_key=key)).status_code == 201


async def at_once(ask: Callable[[int], Any], count: int) -> list[Any]:
    """So many of them together; their results."""
    found = []

    async def one(number: int) -> None:
        found.append(await ask(number))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
    return found


@on_posts
async def test_many_at_once_on_two_processes(api: Api, shared_database: TestDatabase, make: Make) -> None:
    """One acts, all get its answer: keys hold database-wide."""
    async with running(shared_database.app_url) as second, Api.open(second.port) as other:
        conversation = await api.conversation()
        path, body = make(conversation)
        key = new_key()

        async def ask(number: int) -> Any:
            return told(await (api, other)[number % 2].post(path, body, idempotency_key=key))

        answers = await at_once(ask, 24)
        assert len(answers) == 24
        assert answers == [answers[0]] * 24
        assert answers[0][0] in (201, 202)
        if answers[0][0] == 202:
            await api.finished(answers[0][1])
        assert "Traceback" not in second.logged()


async def test_many_streams_of_one_request(api: Api) -> None:
    """Each that asks for the events attaches to the one run, and gets all of them."""
    conversation, key = await api.conversation(), new_key()
    body = json.dumps(demo(60, 200)).encode()
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json", "Idempotency-Key": key}

    async def ask(_: int) -> Any:
        async with await Connection.open(api.port) as connection:
            head = await connection.ask("POST", f"{conversation}/generations", headers, body)
            return head.status, head.headers["location"], await connection.body()

    answers = await at_once(ask, 10)
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


async def test_a_refusal_is_not_remembered(api: Api) -> None:
    """After a 409, a 404 or a 422 the key is free."""
    conversation, key = await api.conversation(), new_key()
    async with api.busy(conversation):
        answer = await api.post(f"{conversation}/generations", demo(), idempotency_key=key)
        assert answer.status_code == 409
    assert (await api.post(f"{conversation}/generations", {"model": 5}, idempotency_key=key)).status_code == 422
    answer = await api.post(f"{conversation}/generations", demo(), idempotency_key=key)
    assert answer.status_code == 202
    await api.finished(answer.headers["Location"])


async def test_a_key_of_a_cancel(api: Api) -> None:
    """Takes one like every POST."""
    conversation, key = await api.conversation(), new_key()
    generation = await api.generate(conversation, tokens=1000, rate=1)
    answers = [await api.post(f"{generation}/cancel", {"reason": "a"}, idempotency_key=key) for _ in range(2)]
    assert [answer.json()["status"] for answer in answers] == ["cancelled"] * 2
    assert told(answers[0]) == told(answers[1])
    other = await api.post(f"{generation}/cancel", {"reason": "b"}, idempotency_key=key)
    assert other.status_code == 422


async def test_a_key_outlives_the_process(database: TestDatabase) -> None:
    """Written with the append: a kill right after the answer loses nothing."""
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
            assert told(again) == told(first)
            assert len((await api.get(conversation))["generations"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 10_000, "\x7f"])
async def test_a_key_that_makes_no_sense(api: Api, key: str) -> None:
    """Refused, never taken for no key at all."""
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/messages", {"role": "user", "content": "x"}, idempotency_key=key)
    assert (answer.status_code, answer.headers["Content-Type"]) in (
        (400, "application/problem+json"),
        (422, "application/problem+json"),
        (431, "application/problem+json"),
    )
    assert len(await api.log(conversation)) == 1
