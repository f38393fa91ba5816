"""Cancellation: at every stage of an answer the socket is closed when the context is left."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.providers import OpenAISettings, RetryPolicy, UpstreamError
from server.providers.openai import OpenAI
from tests.http_client.raw_server import CancelAt

from .answer_reader import prompt, provider_on
from .fake_provider import FakeProvider


async def read(fake: FakeProvider, model: str, batches: int, ready: trio.Event) -> None:
    """Reads this number of batches, sets `ready`, and reads on for ever."""
    async with provider_on(fake, retry=RetryPolicy()).open(prompt(model)) as answer:
        for _ in range(batches):
            assert await answer.receive()
        ready.set()
        while await answer.receive():
            continue
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("model", "batches", "tokens", "by_client"),
    [
        ("silent", 0, 0, True),  # waiting for the head
        ("stall-after-0", 0, 0, True),  # waiting for the first token
        ("stall-after-5", 1, 5, True),  # in the middle of an answer
        ("finish-then-stall", 1, 3, False),  # all that was needed had come
        ("ok-3", 0, 3, False),  # after the end, the context still open
    ],
)
async def test_cancelled_reader_closes_its_connection(
    fake: FakeProvider, model: str, batches: int, tokens: int, by_client: bool
) -> None:
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, fake, model, batches, ready)
        await ready.wait()
        await fake.until(lambda: bool(fake.log) and fake.log[0].tokens_sent == tokens)
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
    assert [record.closed_by_client for record in fake.log] == [by_client]
    assert fake.log[0].tokens_sent == tokens


async def test_leaving_the_context_early_closes_the_connection(fake: FakeProvider) -> None:
    async with provider_on(fake).open(prompt("stall-after-5")) as answer:
        await answer.receive()
        assert fake.open == 1
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
    assert fake.log[0].closed_by_client


async def test_socket_is_closed_when_the_context_is_left(nursery: trio.Nursery) -> None:
    """A peer that reads right then, with no pass of the scheduler in between, finds the end."""
    found = trio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        settings = OpenAISettings(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")

        async def reader() -> None:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_once_connected, scope)
                async with OpenAI(settings).open(prompt("any")) as answer:
                    await answer.receive()
            while peers[0].recv(65536):  # the request, then the end; BlockingIOError if it were still open
                continue
            found.set()

        peers: list[socket.socket] = []

        async def cancel_once_connected(scope: trio.CancelScope) -> None:
            while True:
                await wait_all_tasks_blocked()
                with suppress(BlockingIOError):
                    peers.append(listener.accept()[0])
                    break
            peers[0].setblocking(False)
            scope.cancel()

        nursery.start_soon(reader)
        await found.wait()
        peers[0].close()


async def test_open_does_not_connect(fake: FakeProvider) -> None:
    async with provider_on(fake).open(prompt("ok-1")):
        await wait_all_tasks_blocked()
    assert fake.accepted == 0


@pytest.mark.parametrize("model", ["status-500", "drop-then-ok", "ok-3", "cut-after-1", "empty-content"])
@pytest.mark.parametrize("stage", [*range(1, 17), 20, 25, 30])
async def test_cancellation_at_any_checkpoint_leaves_no_connection(
    fake: FakeProvider, clock: MockClock, model: str, stage: int
) -> None:
    """The reader is cancelled at its n-th checkpoint: in refusals, waits, second attempts and ends."""
    with trio.move_on_after(1000) as scope:  # if it has fewer checkpoints, for it stays open at its end
        await trio.lowlevel.checkpoint()
        trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
        try:
            with suppress(UpstreamError):
                await read(fake, model, 0, trio.Event())
        finally:
            trio.lowlevel.remove_instrument(watch)
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_many_cancelled_readers_leave_no_connection(fake: FakeProvider) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(read, fake, "stall-after-5", 1, trio.Event())
        await fake.until(lambda: [record.tokens_sent for record in fake.log] == [5] * 50)
        assert fake.open == 50
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
    assert all(record.closed_by_client for record in fake.log)
    assert fake.accepted == 50
