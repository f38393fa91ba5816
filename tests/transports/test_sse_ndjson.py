"""The exact bytes of SSE and NDJSON streams: headers, first bytes, heartbeats and end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import trio

from tests.clients import sse
from tests.clients.api import Api
from tests.clients.http1 import Connection, Head
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server

from .module_servers import serving

MEDIA = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


@pytest.fixture(scope="module")
def shared_server(shared_database: TestDatabase) -> Iterator[Server]:
    """A server with a short heartbeat interval."""
    with serving(shared_database.app_url, {"TOKENTAPE_HEARTBEAT": "0.3"}) as server:
        yield server


async def read_response(port: int, target: str, headers: dict[str, str] | None = None) -> tuple[Head, bytes]:
    """Reads a response to its clean end."""
    async with await Connection.open(port) as connection:
        with trio.fail_after(30):
            head = await connection.ask("GET", target, headers)
            return head, await connection.body()


async def test_sse_frames_of_a_whole_generation(api: Api) -> None:
    """A block with `retry`, one frame for each event with its data before its id, and `[DONE]` without an id."""
    generation = await api.generate(tokens=20)
    log = await api.finished(generation)
    _, body = await read_response(api.port, f"{generation}/events?after=3", {"Accept": "text/event-stream"})
    frames = sse.Parser().feed(body)
    assert body.startswith(b"retry:")
    retries = [frame.retry for frame in frames if frame.retry is not None]
    assert len(retries) == 1
    assert 0 < int(retries[0]) <= 60_000
    assert [frame.id for frame in frames if frame.data is None] == [None], "one block, no id: the client has it"
    for block in body.split(b"\n\n")[1:-2]:
        assert [line.partition(b":")[0] for line in block.split(b"\n")] == [b"data", b"id"]
    told = [frame for frame in frames if frame.data is not None]
    assert [frame.id for frame in told[:-1]] == [str(event["position"]) for event in log[2:]]
    assert [json.loads(frame.data or "") for frame in told[:-1]] == log[2:]
    assert {frame.event for frame in told} == {None}
    assert (told[-1].data, told[-1].id) == ("[DONE]", None)
    assert frames[-1] is told[-1]


@pytest.mark.parametrize("form", MEDIA)
async def test_stream_headers_forbid_caching_buffering_and_compression(api: Api, form: str) -> None:
    generation = await api.generate()
    await api.finished(generation)
    asked = {"Accept": MEDIA[form], "Accept-Encoding": "gzip, deflate, br, zstd"}
    head, body = await read_response(api.port, f"{generation}/events", asked)
    assert head.headers["content-type"].split(";")[0] == MEDIA[form]
    assert {part.strip() for part in head.headers["cache-control"].split(",")} >= {"no-cache", "no-transform"}
    assert head.headers["x-accel-buffering"] == "no"
    assert "accept" in head.headers["vary"].lower()
    assert "content-encoding" not in head.headers
    assert b"generation.completed" in body


async def test_named_events_carry_their_type(api: Api) -> None:
    """For `addEventListener`; `[DONE]` stays unnamed."""
    generation = await api.generate()
    log = await api.finished(generation)
    _, body = await read_response(api.port, f"{generation}/events?format=sse&named=1")
    told = [frame for frame in sse.Parser().feed(body) if frame.data is not None]
    assert [frame.event for frame in told] == [*(event["type"] for event in log), None]
    assert [json.loads(frame.data or "") for frame in told[:-1]] == log


async def test_padding_is_sent_first(api: Api) -> None:
    """A comment large enough to fill a proxy's buffer."""
    generation = await api.generate()
    log = await api.finished(generation)
    _, body = await read_response(api.port, f"{generation}/events?format=sse&pad=4096")
    padding, _, rest = body.partition(b"\n")
    assert padding.startswith(b":")
    assert len(padding) + 1 == 4096
    assert rest.startswith(b"retry:"), "no empty line between: some clients give out an empty message for one"
    told = [frame.data for frame in sse.Parser().feed(rest) if frame.data is not None]
    assert [json.loads(data) for data in told[:-1]] == log


@pytest.mark.parametrize("cursor", [None, "1", "now"])
async def test_quiet_sse_stream_starts_at_once_and_sends_heartbeats(api: Api, cursor: str | None) -> None:
    """A cursor the client cannot know is sent before anything happens."""
    conversation = await api.conversation()
    await api.message(conversation)
    target = f"{conversation}/events?format=sse" + ("" if cursor is None else f"&after={cursor}")
    parser = sse.Parser("unset")
    frames: list[sse.Frame] = []
    async with await Connection.open(api.port) as connection:
        with trio.fail_after(20):
            await connection.ask("GET", target)
            heard = b""
            while heard.count(b":\n") < 3:
                data = await connection.receive()
                assert data, "the stream ended"
                heard += data
                frames += parser.feed(data)
            assert frames[0].id == ("2" if cursor == "now" else None)
            assert parser.last_event_id == "2"
            assert heard.endswith(b":\n:\n:\n"), "comments, without an empty line behind any"
            message = await api.message(conversation, "awake?")
            while not any(frame.id == "3" for frame in frames):
                frames += parser.feed(await connection.receive())
    assert json.loads(frames[-1].data or "") == message


async def test_quiet_ndjson_stream_sends_empty_lines(api: Api) -> None:
    """One at once, and one at each heartbeat."""
    conversation = await api.conversation()
    async with await Connection.open(api.port) as connection:
        with trio.fail_after(20):
            await connection.ask("GET", f"{conversation}/events?after=now&format=ndjson")
            body = b""
            while len(body) < 4:
                data = await connection.receive()
                assert data, "the stream ended"
                body += data
    assert body == b"\n\n\n\n"


@pytest.mark.parametrize("form", MEDIA)
async def test_head_of_a_stream_has_headers_and_no_body(api: Api, form: str) -> None:
    """RFC 9110 section 9.3.2. The connection can be used again."""
    conversation = await api.conversation()
    async with await Connection.open(api.port) as connection:
        with trio.fail_after(20):
            head = await connection.ask("HEAD", f"{conversation}/events?format={form}")
            assert head.status == 200
            assert head.headers["content-type"].split(";")[0] == MEDIA[form]
            assert await connection.body() == b""
            again = await connection.ask("GET", "/healthz")
            assert again.status == 200
