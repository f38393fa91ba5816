"""Reused connections: fewer are made, none leaks, and no answer ever gets the bytes of another."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock, wait_all_tasks_blocked

from server.http_client.connection_pool import IDLE_SECONDS, MAX_IDLE
from server.providers import (
    AnthropicSettings,
    OpenAISettings,
    ProviderRegistry,
    RetryPolicy,
    Timeouts,
    UpstreamError,
)
from server.providers.openai import OpenAI
from tests.http_client.raw_server import CancelAt, sending, until_closed

from .answer_reader import finish, prompt, provider_on, read_answer
from .fake_provider import FakeProvider
from .fake_wire_formats import CHUNKED, END, OpenAIFormat, framed, words


async def test_connection_is_reused(fake: FakeProvider, nursery: trio.Nursery, provider: str) -> None:
    client = provider_on(fake, provider)
    await nursery.start(client.pool.run)
    for count in (3, 0, 20, 1):
        seen = await read_answer(client, prompt(f"ok-{count}"))
        assert (seen.texts, seen.finish) == (words(count), finish(count))
        assert len(client.pool) == 1
    assert (fake.accepted, fake.open) == (1, 1)
    assert [record.closed_by_client for record in fake.log] == [False] * 4


async def test_no_connection_is_kept_without_a_running_pool(fake: FakeProvider) -> None:
    client = provider_on(fake)
    for _ in range(2):
        assert (await read_answer(client, prompt("ok-3"))).texts == words(3)
        await fake.until(lambda: fake.open == 0)
    assert fake.accepted == 2
    assert fake.log[0].headers["connection"] == "close"


async def test_idle_connections_are_bounded(fake: FakeProvider, nursery: trio.Nursery) -> None:
    client = provider_on(fake)
    await nursery.start(client.pool.run)
    many = MAX_IDLE + 4

    async def meet() -> None:
        async with client.open(prompt("ok-3")) as answer:
            assert await answer.receive()
            await fake.until(lambda: fake.accepted == many)
            while await answer.receive():
                continue

    async with trio.open_nursery() as inner:
        for _ in range(many):
            inner.start_soon(meet)
    await fake.until(lambda: fake.open == MAX_IDLE)
    assert len(client.pool) == MAX_IDLE


async def echoes(client: object, text: str) -> None:
    async with client.open(prompt("echo", text)) as answer:  # type: ignore[attr-defined]
        got = ""
        while batch := await answer.receive():
            got += "".join(batch)
    assert got == text


async def test_bytes_after_the_answer_are_dropped(nursery: trio.Nursery) -> None:
    server = sending(
        CHUNKED + framed(OpenAIFormat().finish("stop") + b"data: [DONE]\n\n"),
        framed(b": bye\n\n"),
        framed(b": bye\n\n") + END,
        then=until_closed,
    )
    address = await server.listen(nursery)
    client = OpenAI(OpenAISettings(base_url=f"http://127.0.0.1:{address.port}"))
    await nursery.start(client.pool.run)
    assert (await read_answer(client, prompt("any"))).finish is not None
    assert len(client.pool) == 1


async def test_answers_on_reused_connections_never_mix(fake: FakeProvider, nursery: trio.Nursery) -> None:
    client = provider_on(fake)
    await nursery.start(client.pool.run)

    async def turns(name: int) -> None:
        for turn in range(10):
            await echoes(client, f"reader {name} turn {turn}")
            with trio.move_on_after(0):
                async with client.open(prompt("stall-after-2")) as answer:
                    await answer.receive()

    async with trio.open_nursery() as inner:
        for name in range(5):
            inner.start_soon(turns, name)
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == len(client.pool) <= 5)


@pytest.mark.parametrize(
    "model", ["cut-after-3", "malformed-after-3", "error-object", "status-500", "until-close", "length", "html"]
)
async def test_connection_with_an_unread_response_is_closed(
    fake: FakeProvider, nursery: trio.Nursery, model: str
) -> None:
    client = provider_on(fake)
    await nursery.start(client.pool.run)
    await read_answer(client, prompt(model))
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
    # With a length the answer is read to its end, and it is the fake that closes.
    assert len(client.pool) == (model == "length")
    assert (await read_answer(client, prompt("ok-3"))).texts == words(3)
    assert fake.accepted == 2


async def test_wait_for_the_end_of_the_body_is_short(
    fake: FakeProvider, nursery: trio.Nursery, clock: MockClock
) -> None:
    client = provider_on(fake)
    await nursery.start(client.pool.run)
    start = trio.current_time()
    assert (await read_answer(client, prompt("finish-then-stall"))).finish is not None
    assert trio.current_time() - start == pytest.approx(Timeouts().tail + Timeouts().end)
    assert len(client.pool) == 0
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_unfinished_answer_closes_its_connection(fake: FakeProvider, nursery: trio.Nursery) -> None:
    client = provider_on(fake)
    await nursery.start(client.pool.run)
    await read_answer(client, prompt("ok-1"))
    async with client.open(prompt("stall-after-5")) as answer:
        await answer.receive()
    await fake.until(lambda: fake.open == 0)
    assert fake.accepted == 1
    assert fake.log[1].closed_by_client
    assert len(client.pool) == 0


async def test_idle_connection_is_closed_after_its_time_limit(
    fake: FakeProvider, nursery: trio.Nursery, clock: MockClock
) -> None:
    client = provider_on(fake)
    await nursery.start(client.pool.run)
    await trio.sleep(IDLE_SECONDS / 2)  # its time begins when it is idle, not when the pool looks
    await read_answer(client, prompt("ok-1"))
    start = trio.current_time()
    await fake.until(lambda: fake.open == 0)
    assert trio.current_time() - start == pytest.approx(IDLE_SECONDS, abs=0.1)
    assert len(client.pool) == 0


async def test_end_of_the_pool_closes_idle_connections(fake: FakeProvider) -> None:
    registry = ProviderRegistry(
        openai=OpenAISettings(base_url=fake.base_url),
        anthropic=AnthropicSettings(base_url=fake.root_url, api_key=SecretStr("k")),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(registry.run)
        for name in ("openai/ok-1", "anthropic/ok-1", "openai/ok-2", "anthropic/ok-2"):
            found, model = registry.resolve(name)
            assert (await read_answer(found, prompt(model))).error is None
        assert (fake.accepted, fake.open) == (2, 2)
        held, model = registry.resolve("openai/ok-3")
        async with held.open(prompt(model)) as answer:
            assert await answer.receive()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while await answer.receive():
                    continue
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_ended_pool_keeps_no_connection(fake: FakeProvider) -> None:
    client = provider_on(fake)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.pool.run)
        with trio.CancelScope(shield=True):
            async with client.open(prompt("ok-1")) as answer:
                while await answer.receive():
                    continue
                nursery.cancel_scope.cancel()
                await wait_all_tasks_blocked()
                assert not client.pool.running
    assert len(client.pool) == 0
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_registry_without_http_providers_has_nothing_to_run() -> None:
    await ProviderRegistry().run()


@pytest.mark.parametrize("model", ["ok-3", "cut-after-1", "status-500"])
@pytest.mark.parametrize("stage", [*range(1, 15), 20])
async def test_cancellation_on_a_reused_connection_leaves_nothing(
    fake: FakeProvider, clock: MockClock, stage: int, model: str
) -> None:
    async with trio.open_nursery() as nursery:
        client = provider_on(fake, retry=RetryPolicy(attempts=2))
        await nursery.start(client.pool.run)
        await read_answer(client, prompt("ok-1"))
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
            try:
                with suppress(UpstreamError):
                    async with client.open(prompt(model)) as answer:
                        while await answer.receive():
                            continue
            finally:
                trio.lowlevel.remove_instrument(watch)
        with trio.fail_after(5):
            await fake.until(lambda: fake.open == len(client.pool))
        assert (await read_answer(client, prompt("echo", "still right"))).texts == ["still ", "right"]
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
