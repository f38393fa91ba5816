"""The seam, between a fake app and a fake connection: what is passed on, what is withheld, what lingers."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.web.edge.asgi_disconnect import LINGER_SECONDS, Seam

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
MORE: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"y", "more_body": False}
BARE: Message = {"type": "http.response.body", "body": b"y"}
PART: Message = {"type": "http.request", "body": b"x", "more_body": True}
WHOLE: Message = {"type": "http.request", "body": b"x", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


class Connection:
    """Hypercorn's side: what it has for the app, and what the app sent, with the time since the start."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[Message](100)
        self._start = trio.current_time()
        self.sent: list[tuple[float, Message]] = []

    def put(self, *messages: Message) -> None:
        """Something comes from the client."""
        for message in messages:
            self._put.send_nowait(message)

    async def receive(self) -> Message:
        """Hypercorn's `receive`."""
        return await self._get.receive()

    async def send(self, message: Message) -> None:
        """Hypercorn's `send`."""
        await trio.lowlevel.checkpoint()
        self.sent.append((trio.current_time() - self._start, message))


class App:
    """Quart's side: reads all the time, as Quart does, while it sends what the test tells it to."""

    def __init__(self, *, reads: bool = True) -> None:
        self.received: list[Message] = []
        self.answered = trio.Event()
        self._reads = reads
        self._to_send: list[Message] = []

    def sends(self, *messages: Message) -> "App":
        """The answer."""
        self._to_send += messages
        return self

    async def __call__(self, _scope: Message, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            if self._reads:
                nursery.start_soon(self._read, receive)
            await wait_all_tasks_blocked()
            for message in self._to_send:
                await send(message)
            self.answered.set()
            await trio.sleep(10)
            nursery.cancel_scope.cancel()

    async def _read(self, receive: Receive) -> None:
        while True:
            self.received.append(await receive())
            if self.received[-1] == GONE:
                return


@asynccontextmanager
async def exchange(app: App, path: str = "/v1/conversations") -> AsyncIterator[Connection]:
    """The app at work on a connection."""
    connection = Connection()
    seam = cast("Callable[[Message, Receive, Send], Awaitable[None]]", Seam(cast("QuartTrio", app)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seam, {"type": "http", "path": path}, connection.receive, connection.send)
        yield connection


async def test_an_exchange_passes_unchanged(autojump_clock: MockClock) -> None:
    app = App().sends(START, MORE, LAST)
    async with exchange(app) as connection:
        connection.put(PART, WHOLE)
    assert app.received == [PART, WHOLE]
    assert connection.sent == [(0, START), (0, MORE), (0, LAST)]


async def test_a_disconnect_before_the_answer_is_over_is_told(autojump_clock: MockClock) -> None:
    """The client of an endless stream goes: the app has to hear of it."""
    app = App().sends(START, MORE)
    async with exchange(app) as connection:
        connection.put(WHOLE)
        await app.answered.wait()
        connection.put(GONE)
        await wait_all_tasks_blocked()
        assert app.received == [WHOLE, GONE]


@pytest.mark.parametrize("last", [LAST, BARE])
async def test_a_disconnect_after_the_last_message_is_withheld(last: Message, autojump_clock: MockClock) -> None:
    """It would cancel the very task that closes the connection. The read goes on until the app ends it."""
    app = App().sends(START, MORE, last)
    async with exchange(app) as connection:
        connection.put(WHOLE)
        await app.answered.wait()
        connection.put(GONE)
        await trio.sleep(5)
        assert app.received == [WHOLE]
    assert app.received == [WHOLE]
    assert [message for _, message in connection.sent] == [START, MORE, last]


async def test_a_disconnect_while_the_answer_lingers_is_withheld_and_ends_the_wait(
    autojump_clock: MockClock,
) -> None:
    app = App().sends(START, LAST)
    async with exchange(app) as connection:
        connection.put(PART)
        await trio.sleep(LINGER_SECONDS / 4)
        assert [message for _, message in connection.sent] == [START]
        connection.put(GONE)
        await wait_all_tasks_blocked()
        assert connection.sent == [(0, START), (LINGER_SECONDS / 4, LAST)]
    assert app.received == [PART]


async def test_an_early_answer_waits_for_the_rest_of_the_body(autojump_clock: MockClock) -> None:
    """Its head goes at once, so that the client may stop; its end when the body is read."""
    app = App().sends(START, MORE, LAST)
    async with exchange(app) as connection:
        connection.put(PART)
        await trio.sleep(1)
        connection.put(PART)
        await trio.sleep(0.5)
        connection.put(WHOLE)
    assert connection.sent == [(0, START), (0, MORE), (1.5, LAST)]
    assert app.received == [PART, PART, WHOLE]


@pytest.mark.parametrize("reads", [True, False])
async def test_but_not_for_ever(reads: bool, autojump_clock: MockClock) -> None:
    """A client that sends on and on, or an app that does not read."""
    app = App(reads=reads).sends(START, LAST)
    async with exchange(app) as connection:
        for _ in range(20):
            connection.put(PART)
            await trio.sleep(0.25)
    (_, (at, last)) = connection.sent
    assert at == pytest.approx(LINGER_SECONDS)
    assert last == LAST


async def test_a_body_that_was_read_costs_no_wait(autojump_clock: MockClock) -> None:
    app = App().sends(START, LAST)
    async with exchange(app) as connection:
        connection.put(WHOLE)
    assert connection.sent == [(0, START), (0, LAST)]


async def test_two_exchanges_know_nothing_of_each_other(autojump_clock: MockClock) -> None:
    first, second = App().sends(START, LAST), App().sends(START, MORE)
    async with exchange(first) as one, exchange(second) as other:
        one.put(WHOLE)
        other.put(WHOLE)
        await second.answered.wait()
        await first.answered.wait()
        other.put(GONE)
        one.put(GONE)
        await trio.sleep(1)
    assert first.received == [WHOLE]
    assert second.received == [WHOLE, GONE]


async def test_a_target_without_a_path_is_refused_here(autojump_clock: MockClock) -> None:
    """Quart cannot look at one; no app hears of it."""
    app = App()
    async with exchange(app, "") as connection:
        connection.put(WHOLE)
    assert app.received == []
    (_, start), (_, body) = connection.sent
    assert (start["type"], start["status"]) == ("http.response.start", 400)
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert json.loads(body["body"])["code"] == "bad_request"
    assert not body["more_body"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_kinds_of_connections_pass(kind: str, autojump_clock: MockClock) -> None:
    """Not even looked at: the very callables are handed on."""
    seen: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await trio.lowlevel.checkpoint()
        seen.extend([scope, receive, send])

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def send(_message: Message) -> None:
        raise AssertionError("nobody sends")

    seam = cast("Callable[[Message, Receive, Send], Awaitable[None]]", Seam(cast("QuartTrio", app)))
    await seam({"type": kind}, receive, send)
    assert seen == [{"type": kind}, receive, send]
