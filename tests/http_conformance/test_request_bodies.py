"""Request bodies at and over their limit: a refusal reaches its client, even one that first sends all."""

from __future__ import annotations

import json

import pytest
import trio

from tests.clients.api import Api

from .http1_requests import JSON, asking
from .server_probe import Probe

MOST = 1_048_576
"""`TOKENTAPE_MAX_BODY` where it is not set."""
CHUNK = 60_000


def message(size: int) -> bytes:
    """The body of a message, of so many bytes: with blanks behind its JSON."""
    return json.dumps({"role": "user", "content": "all of it"}).encode().ljust(size)


def framed(body: bytes, chunked: bool) -> tuple[dict[str, str], bytes]:
    """Its headers, and what is sent."""
    if not chunked:
        return {**JSON, "Content-Length": str(len(body))}, body
    parts = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return {**JSON, "Transfer-Encoding": "chunked"}, sent


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_the_largest_size(probe: Probe, chunked: bool) -> None:
    """Taken, to the last byte."""
    async with Api.open(probe.port) as api:
        conversation = await api.conversation()
        headers, sent = framed(message(MOST), chunked)
        async with asking(probe.port) as asker:
            answer = await asker.ask("POST", f"{conversation}/messages", headers, sent)
            assert answer.status == 201, answer.body[:300]
            assert (await asker.ask("GET", "/healthz")).status == 200
        assert (await api.log(conversation))[-1]["content"] == "all of it"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [MOST + 1, 5 * MOST])
async def test_a_body_that_is_too_large(probe: Probe, size: int, chunked: bool) -> None:
    """413 with the limit, readable by a client that first sends all of it; nothing is recorded."""
    async with Api.open(probe.port) as api:
        conversation = await api.conversation()
        headers, sent = framed(message(size), chunked)
        async with asking(probe.port) as asker:
            with trio.fail_after(20):
                answer = await asker.ask("POST", f"{conversation}/messages", headers, sent)
        answer.problem(413)
        assert json.loads(answer.body)["limit"] == MOST
        assert len(await api.log(conversation)) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_never_stops_sending(probe: Probe, chunked: bool) -> None:
    """It is told soon, and its connection ended, though it goes on; nothing of what it sends is kept."""
    before = probe.memory()
    headers = {**JSON, **({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(10**12)})}
    async with asking(probe.port) as asker:

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


async def test_a_body_that_stops_coming(probe: Probe) -> None:
    """408 in words after its time, and the connection is closed: the rest may come yet, and is no request."""
    async with asking(probe.port) as asker:
        await asker.send(asker.request("POST", "/v1/conversations", {**JSON, "Content-Length": "50"}) + b'{"title')
        with trio.fail_after(30):
            head = await asker.connection.head()
            body = await asker.connection.body()
        assert head.status == 408
        assert json.loads(body)["code"] == "body_too_slow"
        assert head.headers.get("connection") == "close"
        assert await asker.ended()


async def test_a_client_that_goes_in_the_middle_of_its_body(probe: Probe) -> None:
    """Nothing is recorded of half a request, and nothing raised."""
    async with Api.open(probe.port) as api:
        conversation = await api.conversation()
        for size in (0, 1, 20):
            async with asking(probe.port) as asker:
                head = asker.request("POST", f"{conversation}/messages", {**JSON, "Content-Length": "40"})
                await asker.send(head + message(40)[:size])
        assert len(await api.log(conversation)) == 1
    assert "Traceback" not in probe.server.logged()
