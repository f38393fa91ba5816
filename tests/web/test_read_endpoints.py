"""What reads promise beside the events: cursors, refusals, types, signs of life, waiting, bounded snapshots."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.web.snapshots.snapshot_json import LONG_TEXT, MAX_ITEMS
from server.web.transports.polling import hold
from server.web.transports.read_params import Wait
from tests.clients import sse
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .asgi import Web, web

ASKED = {"model": "fake", "input": "x"}
SSE = {"Accept": "text/event-stream"}
SHORT = FakeUpstream(("a",), ("b",))
STARTS = {"generation.requested", "generation.started"}
HUNG = FakeUpstream(("a",), FOREVER)


async def ended(app: Web) -> tuple[str, list[Any]]:
    """A generation that has ended, and its log."""
    path = (await app.post("/v1/generations", ASKED)).headers["location"]
    while not (page := (await app.ask("GET", f"{path}/events")).json)["closed"]:
        await trio.sleep(0.01)
    return path, page["events"]


async def running(app: Web) -> str:
    """A generation that has said something and goes on."""
    path: str = (await app.post("/v1/generations", ASKED)).headers["location"]
    while (await app.ask("GET", path)).json["tokens"] == 0:
        await trio.sleep(0.01)
    return path


# -- the cursor


@pytest.mark.parametrize("header", [None, "", "2", "now"])
@pytest.mark.parametrize("polyfill", [None, "", "3", "now"])
@pytest.mark.parametrize("after", [None, "", "4", "now"])
async def test_which_cursor_counts(
    header: str | None, polyfill: str | None, after: str | None, autojump_clock: MockClock
) -> None:
    """The header, then the polyfills' parameter, then `after`; an empty one is absent. In every form."""
    counts = header or polyfill or after or "0"
    async with web(fake=SHORT) as app:
        path, log = await ended(app)
        head = log[-1]["position"]
        expected = [event for event in log if event["position"] > (head if counts == "now" else int(counts))]
        query = "&".join(
            f"{name}={value}" for name, value in (("lastEventId", polyfill), ("after", after)) if value is not None
        )
        headers = {} if header is None else {"Last-Event-ID": header}
        page = await app.ask("GET", f"{path}/events", headers, query=query)
        assert page.json["events"] == expected
        stream = await app.ask("GET", f"{path}/events", {**headers, **SSE}, query=query, whole=True)
        assert stream.status == (200 if expected else 204)
        told = [frame.data for frame in sse.Parser().feed(stream.body) if frame.data not in (None, "[DONE]")]
        assert [json.loads(data) for data in told if data is not None] == expected


# -- refusals


@pytest.mark.parametrize("form", ["sse", "ndjson", "json", "held json", "held snapshot"])
@pytest.mark.parametrize("why", ["draining", "full", "store"])
@pytest.mark.parametrize("of", ["generation", "conversation"])
async def test_a_temporary_refusal(form: str, why: str, of: str, autojump_clock: MockClock) -> None:
    """Only an EventSource is told by a 200; nobody is told an instant answer that claims to have waited."""
    log = MemoryBackend()
    async with web(log.process(), fake=HUNG, patience=0.1) as app:
        path = await running(app)
        snapshot = (await app.ask("GET", path)).json
        if of == "conversation":
            path = f"/v1/conversations/{snapshot['conversation']}"
        etag = (await app.ask("GET", path)).headers["etag"]
        drain = app.runtime.drain
        if why == "draining":
            drain.begun = True
        elif why == "full":
            for _ in range(drain.most):
                drain.enter()
        else:
            log.available = False
        head = etag.strip('"')
        ask: dict[str, Any] = {
            "sse": {"path": f"{path}/events", "headers": {**SSE, "Last-Event-ID": "1"}},
            "ndjson": {"path": f"{path}/events", "headers": {"Accept": "application/x-ndjson"}},
            "json": {"path": f"{path}/events", "headers": {}},
            "held json": {"path": f"{path}/events", "headers": {"Prefer": "wait=20"}, "query": f"after={head}"},
            "held snapshot": {"path": path, "headers": {"Prefer": "wait=20", "If-None-Match": etag}},
        }[form]
        answer = await app.ask("GET", **ask, whole=True)
        if form == "json" and why != "store":
            assert answer.status == 200
        elif form == "sse":
            assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            lines = answer.body.decode().split("\n")
            assert lines[0] == "id: 1"
            assert lines[1].startswith("retry: ")
            assert lines[2].startswith(": ")
            assert lines[3:] == ["", ""]
        else:
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "preference-applied" not in answer.headers


async def test_a_refusal_names_no_cursor_where_none_came(autojump_clock: MockClock) -> None:
    async with web(fake=HUNG) as app:
        path = await running(app)
        app.runtime.drain.begun = True
        answer = await app.ask("GET", f"{path}/events", SSE, whole=True)
        assert answer.body.startswith(b"retry: ")
        answer = await app.ask("GET", f"{path}/events", SSE, query="after=now", whole=True)
        assert answer.body.startswith(b"id: now\n")


# -- types


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        ("token", {"token"}),
        ("token,result", {"token"}),
        ("generation.completed", {"generation.completed"}),
        ("-token,-conversation.started", {*STARTS, "generation.completed", "message.posted"}),
        ("-reasoning,-tool.arguments", None),
        ("result", set()),
    ],
)
@pytest.mark.parametrize("own", ["generation", "conversation"])
async def test_types_in_every_form(
    types: str, wanted: set[str] | None, own: str, autojump_clock: MockClock
) -> None:
    """Picked or left out; positions, `next` and the end are as if all had come."""
    async with web(fake=SHORT) as app:
        path, _ = await ended(app)
        if own == "conversation":
            path = f"/v1/conversations/{(await app.ask('GET', path)).json['conversation']}"
        whole = (await app.ask("GET", f"{path}/events")).json
        expected = [event for event in whole["events"] if wanted is None or event["type"] in wanted]
        page = (await app.ask("GET", f"{path}/events", query=f"types={types}")).json
        assert page == {**whole, "events": expected}
        if own == "conversation":
            return
        answer = await app.ask("GET", f"{path}/events", SSE, query=f"types={types}", whole=True)
        if not expected:
            assert answer.status == 204
            return
        told = [frame.data for frame in sse.Parser().feed(answer.body) if frame.data is not None]
        assert [json.loads(data) for data in told[:-1]] == expected
        assert told[-1] == "[DONE]"
        last = str(expected[-1]["position"])
        again = await app.ask("GET", f"{path}/events", {**SSE, "Last-Event-ID": last}, query=f"types={types}")
        assert again.status == 204, "else an EventSource would come back for ever"
        lines = await app.ask("GET", f"{path}/events", query=f"types={types}&format=ndjson", whole=True)
        assert [json.loads(line) for line in lines.body.splitlines() if line] == expected


async def test_a_page_of_types_goes_on_where_it_ended(autojump_clock: MockClock) -> None:
    async with web(fake=FakeUpstream(*[(text,) for text in "abcdefgh"])) as app:
        path, log = await ended(app)
        found: list[Any] = []
        after, closed = 0, False
        while not closed:
            page = (await app.ask("GET", f"{path}/events", query=f"types=token&limit=3&after={after}")).json
            found, after, closed = found + page["events"], page["next"], page["closed"]
        assert found == [event for event in log if event["type"] == "token"]


# -- signs of life


@pytest.mark.parametrize(
    ("query", "frame", "pause"),
    [
        ("", b":\n", 15),
        ("heartbeat=5", b":\n", 5),
        ("heartbeat=60", b":\n", 60),
        ("heartbeat=event", b"event: heartbeat\ndata: {}\n\n", 15),
        ("heartbeat=event,5", b"event: heartbeat\ndata: {}\n\n", 5),
        ("heartbeat=5,event", b"event: heartbeat\ndata: {}\n\n", 5),
    ],
)
async def test_heartbeats(query: str, frame: bytes, pause: int, autojump_clock: MockClock) -> None:
    """As often as asked for, and none while there is something to say."""
    async with web(fake=HUNG) as app:
        path = await running(app)
        head = (await app.ask("GET", path)).json["position"]
        started = trio.current_time()
        chunks: list[tuple[float, bytes]] = []
        with trio.move_on_after(pause * 3 + 1):
            await app.follow(
                f"{path}/events",
                SSE,
                f"after={head}&{query}",
                lambda data: chunks.append((round(trio.current_time() - started), data)),
            )
        assert chunks == [(0, b"retry: 1000\n\n")] + [(pause * n, frame) for n in (1, 2, 3)]


# -- waiting


@pytest.mark.parametrize("by", ["header", "query"])
async def test_what_cannot_change_is_held_too(by: str, autojump_clock: MockClock) -> None:
    """A program that loops on 304 after the end must not spin."""
    async with web(fake=SHORT) as app:
        path, _ = await ended(app)
        etag = (await app.ask("GET", path)).headers["etag"]
        started = trio.current_time()
        headers = {"If-None-Match": etag, **({"Prefer": "wait=7"} if by == "header" else {})}
        answer = await app.ask("GET", path, headers, query="" if by == "header" else "wait=7")
        assert (answer.status, round(trio.current_time() - started)) == (304, 7)
        assert answer.headers.get("preference-applied") == ("wait=7" if by == "header" else None)
        at_once = await app.ask("GET", path, {"If-None-Match": etag})
        assert (at_once.status, at_once.headers["retry-after"]) == (304, "30")


async def test_a_held_snapshot_hears_what_came_between_its_look_and_its_hold(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web(fake=FakeUpstream(("a",), 5.0, ("b",), FOREVER)) as app:
        path = await running(app)
        etag = (await app.ask("GET", path)).headers["etag"]

        async def later(*args: Any) -> Wait:
            await trio.sleep(6)  # the token has been appended by then
            return await hold(*args)

        monkeypatch.setattr("server.web.snapshots.snapshot_endpoint.hold", later)
        started = trio.current_time()
        answer = await app.ask("GET", path, {"If-None-Match": etag, "Prefer": "wait=40"})
        assert answer.status == 200
        assert trio.current_time() - started < 10


@pytest.mark.parametrize("what", ["events", "conversation", "generation"])
@pytest.mark.parametrize("why", ["cap", "drain"])
async def test_what_is_said_of_a_wait_is_true(what: str, why: str, autojump_clock: MockClock) -> None:
    """Streams are capped: the wait is, and says so. The server stops meanwhile: 503, and not an empty answer."""
    async with web(fake=HUNG) as app:
        path = await running(app)
        if what != "generation":
            path = f"/v1/conversations/{(await app.ask('GET', path)).json['conversation']}"
        etag = (await app.ask("GET", path)).headers["etag"]
        head = etag.strip('"')
        path, query = (f"{path}/events", f"after={head}") if what == "events" else (path, "")
        headers = {"Prefer": "wait=20", **({} if what == "events" else {"If-None-Match": etag})}
        drain = app.runtime.drain
        started = trio.current_time()
        if why == "cap":
            drain._longest = 8.0
            answer = await app.ask("GET", path, headers, query=query)
            took = trio.current_time() - started
            assert answer.headers["preference-applied"] == f"wait={int(took)}"
            assert 6 <= took <= 8
            return
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await trio.sleep(3)
                drain.begin(1.0)

            nursery.start_soon(stop)
            answer = await app.ask("GET", path, headers, query=query)
        assert (answer.status, answer.code) == (503, "draining")
        assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_client_that_polls_a_202(by: str, autojump_clock: MockClock) -> None:
    async with web(fake=FakeUpstream(("a",), 5.0, ("b",))) as app:
        path = await running(app)
        ask: dict[str, Any] = (
            {"headers": {"Prefer": "respond-async"}} if by == "header" else {"query": "pending=202"}
        )
        answer = await app.ask("GET", path, **ask)
        assert answer.headers.get("preference-applied") == ("respond-async" if by == "header" else None)
        assert "Prefer" in answer.headers["vary"]
        assert (answer.status, answer.json["status"]) == (202, "running")
        assert int(answer.headers["retry-after"]) >= 1
        await trio.sleep(6)
        answer = await app.ask("GET", path, **ask)
        assert (answer.status, answer.json["status"]) == (200, "completed")


# -- bounded snapshots


async def test_a_long_conversation_comes_in_pages(autojump_clock: MockClock) -> None:
    """The newest first; along `next` every message and generation once."""
    async with web(fake=SHORT) as app:
        path = (await app.post("/v1/conversations", {})).headers["location"]
        for number in range(MAX_ITEMS):
            await app.post(f"{path}/messages", {"role": "user", "content": str(number)})
            if number % 4 == 0:
                await app.post(f"{path}/generations", {**ASKED, "if_running": "queue"})
        messages: list[Any] = []
        generations: list[Any] = []
        query = ""
        while True:
            snapshot = (await app.ask("GET", path, query=query)).json
            assert len(snapshot["messages"]) + len(snapshot["generations"]) <= MAX_ITEMS
            messages, generations = snapshot["messages"] + messages, snapshot["generations"] + generations
            if snapshot["next"] is None:
                break
            query = f"before={snapshot['next']}"
        assert [one["content"] for one in messages if one["content"] != "x"] == list(map(str, range(MAX_ITEMS)))
        log = (await app.ask("GET", f"{path}/events", query="limit=5000")).json["events"]
        asked = [event["generation"] for event in log if event["type"] == "generation.requested"]
        assert [one["id"] for one in generations] == asked
        assert [one["id"] for one in messages] == [
            event["message"] for event in log if event["type"] == "message.posted"
        ]


@pytest.mark.parametrize("before", ["0", "00", "", "-1", "x", str(10**9)])
@pytest.mark.parametrize("at", ["", "at=2&"])
async def test_a_page_before_no_position_is_refused(before: str, at: str, autojump_clock: MockClock) -> None:
    """And not taken for the newest page: a client that counts down would begin again for ever."""
    async with web(fake=SHORT) as app:
        path = (await app.post("/v1/conversations", {})).headers["location"]
        await app.post(f"{path}/messages", {"role": "user", "content": "x"})
        refused = await app.ask("GET", path, query=f"{at}before={before}")
        assert (refused.status, refused.json["code"]) == (400, "invalid_before")
        assert "from 1 to" in refused.json["detail"]
        first = (await app.ask("GET", path, query=f"{at}before=1")).json
        assert (first["messages"], first["generations"], first["next"]) == ([], [], None)
        none = await app.ask("GET", "/v1/conversations", query="before=0")
        assert none.json == {"conversations": [], "next": None}


@pytest.mark.parametrize("text", ["a" * LONG_TEXT, "a" * (LONG_TEXT + 1), "ü" * (LONG_TEXT // 2 + 1)])
async def test_a_long_text_is_left_out_with_a_link(text: str, autojump_clock: MockClock) -> None:
    async with web(fake=FakeUpstream((text[: len(text) // 2],), (text[len(text) // 2 :],))) as app:
        path = (await app.post("/v1/conversations", {})).headers["location"]
        await app.post(f"{path}/messages", {"role": "user", "content": text})
        own = (await app.post(f"{path}/generations", ASKED)).headers["location"]
        while not (await app.ask("GET", f"{own}/events")).json["closed"]:
            await trio.sleep(0.01)
        snapshot = (await app.ask("GET", path)).json
        message, generation = snapshot["messages"][0], snapshot["generations"][0]
        if len(text) == LONG_TEXT:
            assert message["content"] == generation["text"] == text
            assert not {"content_bytes", "content_events"} & message.keys()
            assert not {"text_bytes", "text_events"} & generation.keys()
            return
        assert (message["content"], generation["text"]) == (None, None)
        assert message["content_bytes"] == generation["text_bytes"] == len(text.encode())
        events = await at(app, message["content_events"])
        assert [event["content"] for event in events] == [text]
        events = await at(app, generation["text_events"])
        assert "".join(event["delta"] for event in events if event["type"] == "token") == text
        assert (await app.ask("GET", own)).json["text"] == text, "its own snapshot has it"


async def at(app: Web, link: str) -> list[Any]:
    """The events at a link."""
    path, _, query = link.partition("?")
    events: list[Any] = (await app.ask("GET", path, query=query)).json["events"]
    return events
