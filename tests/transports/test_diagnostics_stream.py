"""`/v1/diagnostics/stream`, which shows whether a proxy holds back a stream.

Its chunks are numbered and carry the time they were sent; it resumes, is limited and drains like other streams.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
import trio

from tests.clients import sse
from tests.clients.api import Api
from tests.clients.http1 import Connection
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running
from tests.openapi.contract import validator

from .problem_checks import check_problem

PATH = "/v1/diagnostics/stream"


@asynccontextmanager
async def open_stream(port: int, query: str, **headers: str) -> AsyncIterator[tuple[Connection, sse.Parser]]:
    """Opens a stream and checks its headers."""
    async with await Connection.open(port) as connection:
        with trio.fail_after(30):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            head = await connection.ask("GET", PATH + query, named)
            assert head.status == 200
            assert head.headers["content-type"].split(";")[0] == "text/event-stream"
            assert head.headers["x-accel-buffering"] == "no"
            assert "no-transform" in head.headers["cache-control"]
            yield connection, sse.Parser()


def chunks_of(frames: list[sse.Frame]) -> list[dict[str, Any]]:
    """The chunks among these frames."""
    return [json.loads(frame.data) for frame in frames if frame.data not in (None, "[DONE]") and frame.data]


async def test_stream_ends_after_its_chunks_which_carry_their_time(server: Server) -> None:
    async with open_stream(server.port, "?chunks=6&interval=0.05") as (connection, parser):
        body = await connection.body()
    frames = parser.feed(body)
    chunks = chunks_of(frames)
    assert [chunk["chunk"] for chunk in chunks] == [1, 2, 3, 4, 5, 6]
    for chunk in chunks:
        validator("DiagnosticChunk").validate(chunk)
        assert chunk["of"] == 6
    assert [frame.id for frame in frames if frame.data not in (None, "[DONE]")] == list("123456")
    assert (frames[-1].data, frames[-1].id) == ("[DONE]", None)
    assert body.startswith(b"retry:")
    times = [chunk["elapsed_ms"] for chunk in chunks]
    # Never before it is due; how late is the machine's business.
    assert all(time >= 50 * number for number, time in enumerate(times))
    assert all(earlier <= later for earlier, later in pairwise(times))
    stamps = [datetime.fromisoformat(chunk["at"]) for chunk in chunks]
    assert all(stamp.utcoffset() is not None for stamp in stamps)


async def test_chunk_arrives_before_the_next_one_is_due(server: Server) -> None:
    """The next one would be due in five seconds, so the server holds nothing back."""
    async with open_stream(server.port, "?chunks=3&interval=5") as (connection, parser):
        frames: list[sse.Frame] = []
        with trio.fail_after(4):
            while not chunks_of(frames):
                frames += parser.feed(await connection.receive())
    assert [chunk["chunk"] for chunk in chunks_of(frames)] == [1]


async def test_stream_resumes_at_its_cursor_and_ends_with_204(server: Server, api: Api) -> None:
    """As an EventSource reconnects."""
    async with open_stream(server.port, "?chunks=5&interval=0", Last_Event_ID="3") as (connection, parser):
        chunks = chunks_of(parser.feed(await connection.body()))
    assert [chunk["chunk"] for chunk in chunks] == [4, 5]
    for cursor in ("5", "6", "now", "9" * 30):
        answer = await api.http.get(f"{PATH}?chunks=5", headers={"Last-Event-ID": cursor})
        assert (answer.status_code, answer.content) == (204, b"")


async def test_padding_is_sent_first(server: Server) -> None:
    async with open_stream(server.port, "?chunks=1&pad=4096") as (connection, _):
        body = await connection.body()
    padding = body.partition(b"\n\n")[0]
    assert padding.startswith(b":")
    assert len(padding) >= 4094


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("chunks=0", "invalid_chunks"),
        ("chunks=201", "invalid_chunks"),
        ("chunks=x", "invalid_chunks"),
        ("interval=-1", "invalid_interval"),
        ("interval=5.1", "invalid_interval"),
        ("interval=", "invalid_interval"),
        ("interval=1_0", "invalid_interval"),
        ("pad=0", "invalid_pad"),
        ("after=x", "invalid_cursor"),
    ],
)
async def test_parameter_out_of_bounds_gets_400(api: Api, query: str, code: str) -> None:
    answer = await api.http.get(f"{PATH}?{query}")
    assert answer.status_code == 400
    check_problem(400, answer.headers, answer.content, code)


async def test_stream_counts_against_the_limit_and_ends_at_a_stop(database: TestDatabase) -> None:
    """It takes the only place there is, and a server stop ends it long before its time."""
    async with running(database.app_url, {"TOKENTAPE_MAX_STREAMS": "1"}) as server:
        async with (
            Api.open(server.port) as api,
            open_stream(server.port, "?chunks=200&interval=5") as (connection, _),
        ):
            assert await connection.receive()
            conversation = await api.conversation()
            assert (await api.http.get(f"{conversation}/events?format=ndjson")).status_code == 503
            refused = await api.http.get(PATH)
            assert (refused.status_code, refused.headers["Content-Type"]) == (200, "text/event-stream")
            frames = sse.Parser().feed(refused.content)
            assert chunks_of(frames) == []
            assert any(frame.retry is not None for frame in frames)
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.stop)
                    body = await connection.body()  # its clean end
    assert b"[DONE]" not in body
