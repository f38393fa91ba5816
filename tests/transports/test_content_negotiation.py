"""Which form a client gets, by `?format=` or by `Accept`; POST requests that respond with the stream itself."""

from __future__ import annotations

import json

import pytest
import trio

from tests.clients import sse
from tests.clients.api import Api, demo, new_key
from tests.clients.http1 import Connection

JSON, SSE, NDJSON = "application/json", "text/event-stream", "application/x-ndjson"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("text/*", JSON),
        ("application/*", JSON),
        ("text/*, */*;q=0.1", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        (JSON, JSON),
        (SSE, SSE),
        (NDJSON, NDJSON),
        ("Text/Event-Stream", SSE),
        (f"{SSE}; charset=utf-8", SSE),
        (f"{SSE}, */*", SSE),
        (f"{JSON}, {SSE}", SSE),
        (f"{SSE};q=0.5", SSE),
        (f"{SSE};q=0.5, */*", JSON),
        (f"{JSON};q=0.5, {SSE};q=0.8", SSE),
        (f"{JSON};q=0.5, {NDJSON};q=0.8", NDJSON),
        (f"{JSON};q=0.9, {SSE};q=0.8", JSON),
        (f"{JSON}, {SSE};q=0.9", JSON),
        (f"{JSON};q=0.8, {NDJSON};q=0.5", JSON),
        (f"{SSE};q=0", JSON),
        (f"{NDJSON};q=0, */*", JSON),
        (f"{SSE};q=0.5, {NDJSON}", NDJSON),
        (f"{NDJSON};q=0.5, {SSE}", SSE),
        (f"{SSE} ; q=0.5 , {JSON} ; q=0.25", SSE),
    ],
)
async def test_accept_header_selects_the_form(api: Api, accept: str | None, form: str) -> None:
    """Streams only for clients that name them; clients that accept anything get JSON."""
    generation = await api.generate()
    await api.finished(generation)
    async with await Connection.open(api.port) as connection:
        with trio.fail_after(20):
            head = await connection.ask(
                "GET", f"{generation}/events", {} if accept is None else {"Accept": accept}
            )
            body = await connection.body()
    assert head.status == 200
    assert head.headers["content-type"].split(";")[0] == form
    assert "accept" in head.headers["vary"].lower()
    assert body.startswith({JSON: b"{", SSE: b"retry:", NDJSON: b"\n"}[form])


@pytest.mark.parametrize(("name", "form"), [("json", JSON), ("sse", SSE), ("ndjson", NDJSON)])
@pytest.mark.parametrize("accept", [JSON, SSE, NDJSON])
async def test_format_query_overrides_accept(api: Api, name: str, form: str, accept: str) -> None:
    generation = await api.generate()
    await api.finished(generation)
    answer = await api.http.get(f"{generation}/events?format={name}", headers={"Accept": accept})
    assert answer.headers["Content-Type"].split(";")[0] == form


async def test_unknown_format_is_refused(api: Api) -> None:
    conversation = await api.conversation()
    answer = await api.http.get(f"{conversation}/events?format=xml", headers={"Accept": SSE})
    assert answer.status_code in (400, 406, 422)
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_pages_may_not_be_cached_for_others(api: Api) -> None:
    """A shared cache must not give a page to another user."""
    answer = await api.http.get(f"{await api.conversation()}/events")
    assert {part.strip() for part in answer.headers["Cache-Control"].split(",")} == {"private", "no-cache"}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rate", [0, 100])
async def test_post_that_accepts_sse_gets_the_events(api: Api, own: bool, rate: float) -> None:
    """With Location, and the same frames as `…/events`."""
    conversation = "/v1" if own else await api.conversation()
    body = json.dumps(demo(30, rate, input="Hi")).encode()
    headers = {"Accept": SSE, "Content-Type": "application/json"}
    async with await Connection.open(api.port) as connection:
        with trio.fail_after(30):
            head = await connection.ask("POST", f"{conversation}/generations", headers, body)
            answered = await connection.body()
    assert head.status == 200
    assert head.headers["content-type"].split(";")[0] == SSE
    assert head.headers["x-accel-buffering"] == "no"
    assert {part.strip() for part in head.headers["cache-control"].split(",")} >= {"no-cache", "no-transform"}
    frames = sse.Parser().feed(answered)
    log = await api.log(head.headers["location"])
    told = [frame for frame in frames if frame.data is not None]
    assert [json.loads(frame.data or "") for frame in told[:-1]] == log
    assert [frame.id for frame in told[:-1]] == [str(event["position"]) for event in log]
    assert (told[-1].data, told[-1].id) == ("[DONE]", None)
    assert answered.startswith(b"retry:")
    assert [frame.id for frame in frames if frame.data is None] == [None]


@pytest.mark.parametrize("accept", ["*/*", "text/*", f"{JSON}, {SSE};q=0.5", JSON])
async def test_post_that_does_not_accept_sse_gets_202(api: Api, accept: str) -> None:
    """With the snapshot of the generation."""
    answer = await api.post("/v1/generations", demo(), accept=accept, idempotency_key=new_key())
    assert (answer.status_code, answer.headers["Content-Type"]) == (202, JSON)
    assert answer.json()["id"] == answer.headers["Location"].rpartition("/")[2]
