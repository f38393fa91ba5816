"""A POST of a run sent again: behind a cursor, at every position; and what a client is told that prefers a 202."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.clients import sse
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .asgi import Answered, Web, web

ASKED = {"model": "fake", "input": "x"}
SSE = {"Accept": "text/event-stream", "Idempotency-Key": "the-same-key-again"}
TOKENS = FakeUpstream(*[(text,) for text in "abcdef"])


def events(answer: Answered) -> list[Any]:
    """Of a stream that ended with `[DONE]`."""
    frames = [frame.data for frame in sse.Parser().feed(answer.body) if frame.data is not None]
    assert frames[-1] == "[DONE]"
    return [json.loads(data) for data in frames[:-1]]


async def again(app: Web, path: str, cursor: str | None, **more: str) -> Answered:
    """The same POST, with a cursor."""
    headers = {**SSE, **({} if cursor is None else {"Last-Event-ID": cursor}), **more}
    return await app.ask("POST", path, headers, ASKED, whole=True)


@pytest.mark.parametrize("own", [True, False])
async def test_a_repeated_post_resumes_after_every_position(own: bool) -> None:
    """And at the end, or past it, it ends as a stream does: clients that post take a 204 for an error."""
    async with web(fake=TOKENS) as app:
        path = "/v1/generations"
        if not own:
            path = f"/v1/conversations/{(await app.post('/v1/conversations', {})).json['id']}/generations"
        first = await again(app, path, None)
        log = events(first)
        head = log[-1]["position"]
        if not own:  # the conversation has more behind its end
            await app.post(path.replace("generations", "messages"), {"role": "user", "content": "more"})
            head += 1
        for cursor in range(head + 1):
            answer = await again(app, path, str(cursor))
            assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
            assert answer.headers["location"] == first.headers["location"]
            assert events(answer) == [event for event in log if event["position"] > cursor]
        assert (await again(app, path, str(head))).body == b"data: [DONE]\n\n"
        assert events(await again(app, path, "")) == log
        assert len((await app.ask("GET", "/v1/conversations")).json["conversations"]) == 1


@pytest.mark.parametrize(
    ("cursor", "code"), [("x", "invalid_cursor"), ("-1", "invalid_cursor"), ("99", "cursor_ahead")]
)
async def test_an_invalid_cursor_is_refused(cursor: str, code: str) -> None:
    """Final, as for a GET; it says where the run is if there is one."""
    async with web() as app:
        first = await again(app, "/v1/generations", None)
        answer = await again(app, "/v1/generations", cursor)
        assert (answer.status, answer.code) == (400, code)
        assert answer.headers.get("location") == (first.headers["location"] if code == "cursor_ahead" else None)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_an_invalid_cursor_starts_no_run(accept: str) -> None:
    async with web() as app:
        headers = {"Accept": accept, "Last-Event-ID": "x"}
        assert (await app.ask("POST", "/v1/generations", headers, ASKED, whole=True)).code == "invalid_cursor"
        assert (await app.ask("GET", "/v1/conversations")).json["conversations"] == []


@pytest.mark.parametrize("cursor", ["3", "99", "now"])
async def test_a_cursor_means_nothing_to_a_new_run(cursor: str) -> None:
    """Without its key each POST is another run, of which nothing was read yet: all of it comes."""
    async with web(fake=TOKENS) as app:
        answer = await app.ask(
            "POST", "/v1/generations", {"Accept": SSE["Accept"], "Last-Event-ID": cursor}, ASKED, whole=True
        )
        types = [event["type"] for event in events(answer)]
        assert types[:3] == ["generation.requested", "generation.started", "token"]


async def test_it_attaches_while_the_run_is_under_way() -> None:
    """Many at once and one after the other: one run, and each has all of it."""
    answers: list[Answered] = []
    upstream = FakeUpstream(("a",), 0.3, ("b",))
    async with web(fake=upstream) as app:

        async def ask(cursor: str | None) -> None:
            answers.append(await again(app, "/v1/generations", cursor))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, None)
            while upstream.opened == 0:
                await trio.sleep(0.01)
            nursery.start_soon(ask, "0")
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert all(events(answer) == events(answers[0]) for answer in answers)
    assert upstream.opened == 1


async def test_another_body_with_its_key_is_refused_in_either_form() -> None:
    async with web() as app:
        await again(app, "/v1/generations", None)
        for accept in ("text/event-stream", "application/json"):
            other = await app.post("/v1/generations", {**ASKED, "input": "y"}, {**SSE, "Accept": accept})
            assert (other.status, other.code) == (422, "key_reused")


async def test_a_202_has_retry_after() -> None:
    async with web(fake=FakeUpstream(FOREVER)) as app:
        answer = await app.post("/v1/generations", ASKED)
        assert answer.status == 202
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert answer.headers["location"] == f"/v1/generations/{answer.json['id']}"
        assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(
    ("prefer", "later"),
    [
        ("respond-async", True),
        ("Respond-Async", True),
        ("wait=10, respond-async", True),
        ("respond-async;x=y, wait=10", True),
        ("respond-asynchronously", False),
        ("wait=10", False),
        ("", False),
    ],
)
async def test_the_location_of_respond_async_answers_202(prefer: str, later: bool) -> None:
    """Until the end, at the `Location`; the same when it is sent again, and as it is preferred then."""
    async with web(fake=FakeUpstream(FOREVER)) as app:
        key = {"Idempotency-Key": "a-key-of-sixteen"}
        first, second = [await app.post("/v1/generations", ASKED, {**key, "Prefer": prefer}) for _ in range(2)]
        plain = await app.post("/v1/generations", ASKED, key)
        assert first.json["id"] == second.json["id"] == plain.json["id"]
        assert plain.headers["location"] == f"/v1/generations/{plain.json['id']}"
        for answer in (first, second):
            assert answer.status == 202
            assert answer.headers["location"] == plain.headers["location"] + ("?pending=202" if later else "")
            assert answer.headers.get("preference-applied") == ("respond-async" if later else None)


@pytest.mark.parametrize("path", ["", "/{}/messages", "/{}/generations"])
async def test_json_ends_with_a_newline(path: str) -> None:
    """A shell's prompt would stick to the last brace."""
    async with web() as app:
        conversation = (await app.post("/v1/conversations", {})).json["id"]
        bodies = {"messages": {"role": "user", "content": "x"}, "generations": ASKED}
        path = f"/v1/conversations{path}".format(conversation)
        answer = await app.post(path, bodies.get(path.rpartition("/")[2], {}))
        assert answer.status in (201, 202)
        assert answer.body.endswith(b"}\n")
        assert answer.headers.get("content-length") in (None, str(len(answer.body)))
        assert (await app.post(path, {"no": "field"})).body.endswith(b"}\n")
