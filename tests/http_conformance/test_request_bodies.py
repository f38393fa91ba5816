"""Request bodies at the size limit, over it, too slow, and cut off.

A refusal must be readable even by a client that sends its whole body first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api
from tests.harness.databases import Postgres

from .conftest import ENV
from .http1_requests import JSON, http1_client
from .server_probe import Probe, probed

MAX_BODY = 1_048_576
"""`TOKENTAPE_MAX_BODY` where it is not set."""
CHUNK = 60_000


def message(size: int) -> bytes:
    """The JSON of a message, padded with blanks to that number of bytes."""
    return json.dumps({"role": "user", "content": "all of it"}).encode().ljust(size)


def framed(body: bytes, chunked: bool) -> tuple[dict[str, str], bytes]:
    """Headers and bytes that send this body, with Content-Length or in chunks."""
    if not chunked:
        return {**JSON, "Content-Length": str(len(body))}, body
    parts = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return {**JSON, "Transfer-Encoding": "chunked"}, sent


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_of_exactly_the_maximum_size_is_accepted(probe: Probe, chunked: bool) -> None:
    async with Api.open(probe.port) as api:
        conversation = await api.conversation()
        headers, sent = framed(message(MAX_BODY), chunked)
        async with http1_client(probe.port) as asker:
            answer = await asker.ask("POST", f"{conversation}/messages", headers, sent)
            assert answer.status == 201, answer.body[:300]
            assert (await asker.ask("GET", "/healthz")).status == 200
        assert (await api.log(conversation))[-1]["content"] == "all of it"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [MAX_BODY + 1, 5 * MAX_BODY])
async def test_too_large_body_gets_413_with_the_limit(probe: Probe, size: int, chunked: bool) -> None:
    """A client that sends everything first can read it. Nothing is recorded."""
    async with Api.open(probe.port) as api:
        conversation = await api.conversation()
        headers, sent = framed(message(size), chunked)
        async with http1_client(probe.port) as asker:
            with trio.fail_after(20):
                answer = await asker.ask("POST", f"{conversation}/messages", headers, sent)
        answer.problem(413)
        assert json.loads(answer.body)["limit"] == MAX_BODY
        assert len(await api.log(conversation)) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_client_that_never_stops_sending_gets_413_and_is_cut(probe: Probe, chunked: bool) -> None:
    """The server stores nothing of what it sends."""
    before = probe.memory()
    headers = {**JSON, **({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(10**12)})}
    async with http1_client(probe.port) as asker:

        async def send_for_ever(*, task_status: trio.TaskStatus[None]) -> None:
            await asker.send(asker.request("POST", "/v1/conversations", headers))
            task_status.started()
            part = b"x" * CHUNK
            piece = b"%x\r\n%b\r\n" % (CHUNK, part) if chunked else part
            while True:
                try:
                    await asker.connection.send(piece)
                except trio.BrokenResourceError:
                    return

        async with trio.open_nursery() as nursery:
            await nursery.start(send_for_ever)
            answer = await asker.answer()
            answer.problem(413)
            assert answer.closes
        # The nursery has ended: the sender was cut off.
    assert probe.memory() - before < 16_000_000


@pytest.fixture
def server_with_short_body_timeout(postgres: Postgres, tmp_path: Path) -> Iterator[Probe]:
    """A server that waits two seconds for a request body."""
    with probed(postgres, tmp_path, {**ENV, "EDGE_REQUEST_SECONDS": "2"}) as probe:
        yield probe


async def test_body_that_stops_arriving_gets_408(server_with_short_body_timeout: Probe) -> None:
    """The connection is closed, because the rest might still arrive and be read as a request."""
    async with http1_client(server_with_short_body_timeout.port) as asker:
        await asker.send(asker.request("POST", "/v1/conversations", {**JSON, "Content-Length": "50"}) + b'{"title')
        with trio.fail_after(30):
            head = await asker.connection.head()
            body = await asker.connection.body()
        assert head.status == 408
        assert json.loads(body)["code"] == "body_too_slow"
        assert head.headers.get("connection") == "close"
        assert await asker.ended()


async def test_disconnect_within_a_body_records_nothing(probe: Probe) -> None:
    """And the server logs no traceback."""
    async with Api.open(probe.port) as api:
        conversation = await api.conversation()
        for size in (0, 1, 20):
            async with http1_client(probe.port) as asker:
                head = asker.request("POST", f"{conversation}/messages", {**JSON, "Content-Length": "40"})
                await asker.send(head + message(40)[:size])
        assert len(await api.log(conversation)) == 1
    assert "Traceback" not in probe.server.logged()
