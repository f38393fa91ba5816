"""The sender of one webhook POST: the request, what counts as success, limits on the answer, and errors."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from server.webhooks.sender import ERRORS

from .receiver import Answer, Receiver, silence
from .webhook_post import post
from .webhook_process import PATH_SECRET


async def test_request_headers_and_body() -> None:
    async with Receiver().listening() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/a//b?c=%20d"
        outcome = await post(url, allow_private=True)
    assert (outcome.status, outcome.error, outcome.delivered) == (200, None, True)
    (got,) = receiver.posts
    assert got.line == "POST /a//b?c=%20d HTTP/1.1"
    assert got.body == b'{"a":1}'
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["connection"] == "close"
    assert got.headers["webhook-id"] == "msg_1"


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (204, 204, None),
        (299, 299, None),
        (302, 302, None),
        (410, 410, None),
        (500, 500, None),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n", 201, None),
        (b"HTTP/1.0 200 OK\r\n\r\nno framing", 200, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut", 200, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200, None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None, "cut"),
        (b"", None, "cut"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None, "malformed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", None, "malformed"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000, None, "malformed"),
    ],
)
async def test_outcome_of_each_answer(answer: int | bytes, status: int | None, error: str | None) -> None:
    async with Receiver(answer).listening() as receiver:
        outcome = await post(f"http://127.0.0.1:{receiver.port}/", allow_private=True)
    assert (outcome.status, outcome.error) == (status, error)
    assert outcome.delivered is (status in (200, 201, 204, 299))
    assert outcome.gone is (status == 410)


async def test_answer_before_the_whole_request_counts() -> None:
    """And closes: sending breaks, but it has said something."""

    async def connect(host: str, port: int) -> trio.abc.Stream:
        mine, theirs = memory_stream_pair()
        await theirs.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await theirs.aclose()
        return mine

    assert (await post("http://8.8.8.8/", connect)).status == 413


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    async with Receiver().listening() as other:
        answer = b"HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n"
        async with Receiver(answer % (status, other.port)).listening() as receiver:
            outcome = await post(f"http://127.0.0.1:{receiver.port}/", allow_private=True)
    assert (outcome.status, outcome.delivered) == (status, False)
    assert len(receiver.posts) == 1
    assert other.posts == []


async def test_endless_answer_body_is_cut(autojump_clock: MockClock) -> None:
    sent = 0

    async def endless(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 1_000)
            sent += 1_000
            await trio.sleep(0.01)

    async with Receiver(endless).in_memory() as receiver:
        outcome = await post("http://8.8.8.8/", receiver.connect)
        assert outcome.status == 200
        await receiver.quiet()
    assert sent < 20_000


async def slow(stream: trio.abc.Stream) -> None:
    """A byte a second: no phase is silent for long, the whole is."""
    for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100:
        await stream.send_all(bytes([byte]))
        await trio.sleep(1)


@pytest.mark.parametrize("answer", [silence, slow])
async def test_slow_receiver_times_out(answer: Answer, autojump_clock: MockClock) -> None:
    async with Receiver(answer).in_memory() as receiver:
        outcome = await post("http://8.8.8.8/", receiver.connect)
        assert (outcome.status, outcome.error, outcome.ms) == (None, "timeout", 15_000)


async def test_status_counts_when_the_body_hangs(autojump_clock: MockClock) -> None:
    """The status has come."""

    async def hang(stream: trio.abc.Stream) -> None:
        await trio.sleep(14.9)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await trio.sleep_forever()

    async with Receiver(hang).in_memory() as receiver:
        assert (await post("http://8.8.8.8/", receiver.connect)).delivered


async def test_refused_connection() -> None:
    async with Receiver().listening() as receiver:
        port = receiver.port
    outcome = await post(f"http://127.0.0.1:{port}/", allow_private=True)
    assert (outcome.status, outcome.error) == (None, "cannot_connect")


async def test_internal_error_is_an_outcome(lines: list[dict[str, object]]) -> None:
    """And its log line tells where it was, without the error's own words."""

    async def broken(host: str, port: int) -> trio.abc.Stream:
        raise RuntimeError(f"cannot reach {PATH_SECRET}")

    outcome = await post(f"http://8.8.8.8/{PATH_SECRET}", broken)
    assert outcome.error == "internal_error"
    (line,) = lines
    assert (line["why"], str(line["where"]).split(",")[0]) == ("RuntimeError", "broken")


def test_every_error_code_has_a_test() -> None:
    """A new one is not forgotten."""
    files = (Path(__file__), Path(__file__).with_name("test_sender_network.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert {error for error in ERRORS if f'"{error}"' in text} == set(ERRORS)


async def test_sender_can_be_cancelled() -> None:
    """And the connection is closed with it."""
    async with Receiver(silence).listening() as receiver:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await receiver.got(1)
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await post(f"http://127.0.0.1:{receiver.port}/", allow_private=True)
        assert scope.cancelled_caught
        await receiver.quiet()
