"""Connections used again: fewer are made, none leaks, and no answer ever gets another's bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock, wait_all_tasks_blocked

from server.upstream import AnthropicSettings, Limits, OpenAISettings, RetryPolicy, UpstreamError, Upstreams
from server.upstream.openai import OpenAI
from server.upstream.pool import IDLE_SECONDS, MOST_IDLE

from .asking import ask, finish, prompt, upstream
from .fake_openai import Fake
from .fake_wire import CHUNKED, END, OpenAIWire, framed, words
from .raw_server import CancelAt, saying, silence


async def test_one_connection_serves_one_answer_after_another(
    fake: Fake, nursery: trio.Nursery, provider: str
) -> None:
    asked = upstream(fake, provider)
    await nursery.start(asked.pool.run)
    for count in (3, 0, 20, 1):
        seen = await ask(asked, prompt(f"ok-{count}"))
        assert (seen.texts, seen.finish) == (words(count), finish(count))
        assert len(asked.pool) == 1
    assert (fake.accepted, fake.open) == (1, 1)
    assert [record.closed_by_client for record in fake.log] == [False] * 4


async def test_without_somebody_who_runs_the_pool_nothing_is_kept(fake: Fake) -> None:
    asked = upstream(fake)
    for _ in range(2):
        assert (await ask(asked, prompt("ok-3"))).texts == words(3)
        await fake.until(lambda: fake.open == 0)
    assert fake.accepted == 2
    assert fake.log[0].headers["connection"] == "close"


async def test_answers_at_once_have_connections_of_their_own_and_a_bound_is_kept(
    fake: Fake, nursery: trio.Nursery
) -> None:
    asked = upstream(fake)
    await nursery.start(asked.pool.run)
    many = MOST_IDLE + 4

    async def meet() -> None:
        async with asked.open(prompt("ok-3")) as answer:
            assert await answer.receive()
            await fake.until(lambda: fake.accepted == many)
            while await answer.receive():
                continue

    async with trio.open_nursery() as inner:
        for _ in range(many):
            inner.start_soon(meet)
    await fake.until(lambda: fake.open == MOST_IDLE)
    assert len(asked.pool) == MOST_IDLE


async def echoes(asked: object, text: str) -> None:
    async with asked.open(prompt("echo", text)) as answer:  # type: ignore[attr-defined]
        got = ""
        while batch := await answer.receive():
            got += "".join(batch)
    assert got == text


async def test_a_body_that_goes_on_after_the_answer_is_read_past(nursery: trio.Nursery) -> None:
    server = saying(
        CHUNKED + framed(OpenAIWire().finish("stop") + b"data: [DONE]\n\n"),
        framed(b": bye\n\n"),
        framed(b": bye\n\n") + END,
        then=silence,
    )
    address = await server.listen(nursery)
    asked = OpenAI(OpenAISettings(base_url=f"http://127.0.0.1:{address.port}"))
    await nursery.start(asked.pool.run)
    assert (await ask(asked, prompt("any"))).finish is not None
    assert len(asked.pool) == 1


async def test_many_turns_of_many_never_mix(fake: Fake, nursery: trio.Nursery) -> None:
    asked = upstream(fake)
    await nursery.start(asked.pool.run)

    async def turns(name: int) -> None:
        for turn in range(10):
            await echoes(asked, f"reader {name} turn {turn}")
            with trio.move_on_after(0):
                async with asked.open(prompt("stall-after-2")) as answer:
                    await answer.receive()

    async with trio.open_nursery() as inner:
        for name in range(5):
            inner.start_soon(turns, name)
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == len(asked.pool) <= 5)


@pytest.mark.parametrize(
    "model", ["cut-after-3", "malformed-after-3", "error-object", "status-500", "until-close", "length", "html"]
)
async def test_after_anything_but_a_whole_answer_to_its_last_byte_it_is_closed(
    fake: Fake, nursery: trio.Nursery, model: str
) -> None:
    asked = upstream(fake)
    await nursery.start(asked.pool.run)
    await ask(asked, prompt(model))
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
    # With a length the answer is read to its end, and it is the fake that closes.
    assert len(asked.pool) == (model == "length")
    assert (await ask(asked, prompt("ok-3"))).texts == words(3)
    assert fake.accepted == 2


async def test_the_end_is_waited_for_only_a_moment(fake: Fake, nursery: trio.Nursery, clock: MockClock) -> None:
    asked = upstream(fake)
    await nursery.start(asked.pool.run)
    start = trio.current_time()
    assert (await ask(asked, prompt("finish-then-stall"))).finish is not None
    assert trio.current_time() - start == pytest.approx(Limits().tail + Limits().end)
    assert len(asked.pool) == 0
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_leaving_early_or_cancelled_closes_as_ever(fake: Fake, nursery: trio.Nursery) -> None:
    asked = upstream(fake)
    await nursery.start(asked.pool.run)
    await ask(asked, prompt("ok-1"))
    async with asked.open(prompt("stall-after-5")) as answer:
        await answer.receive()
    await fake.until(lambda: fake.open == 0)
    assert fake.accepted == 1
    assert fake.log[1].closed_by_client
    assert len(asked.pool) == 0


async def test_an_idle_connection_is_closed_when_its_time_is_over(
    fake: Fake, nursery: trio.Nursery, clock: MockClock
) -> None:
    asked = upstream(fake)
    await nursery.start(asked.pool.run)
    await trio.sleep(IDLE_SECONDS / 2)  # its time begins when it is idle, not when the pool looks
    await ask(asked, prompt("ok-1"))
    start = trio.current_time()
    await fake.until(lambda: fake.open == 0)
    assert trio.current_time() - start == pytest.approx(IDLE_SECONDS, abs=0.1)
    assert len(asked.pool) == 0


async def test_when_the_pool_ends_the_idle_ones_are_closed_and_no_more_are_kept(fake: Fake) -> None:
    upstreams = Upstreams(
        openai=OpenAISettings(base_url=fake.base_url),
        anthropic=AnthropicSettings(base_url=fake.root_url, api_key=SecretStr("k")),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(upstreams.run)
        for name in ("openai/ok-1", "anthropic/ok-1", "openai/ok-2", "anthropic/ok-2"):
            found, model = upstreams.resolve(name)
            assert (await ask(found, prompt(model))).error is None
        assert (fake.accepted, fake.open) == (2, 2)
        held, model = upstreams.resolve("openai/ok-3")
        async with held.open(prompt(model)) as answer:
            assert await answer.receive()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while await answer.receive():
                    continue
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_a_pool_that_ended_before_the_context_was_left_keeps_nothing(fake: Fake) -> None:
    asked = upstream(fake)
    async with trio.open_nursery() as nursery:
        await nursery.start(asked.pool.run)
        with trio.CancelScope(shield=True):
            async with asked.open(prompt("ok-1")) as answer:
                while await answer.receive():
                    continue
                nursery.cancel_scope.cancel()
                await wait_all_tasks_blocked()
                assert not asked.pool.keeping
    assert len(asked.pool) == 0
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_upstreams_without_providers_have_nothing_to_run() -> None:
    await Upstreams().run()


@pytest.mark.parametrize("model", ["ok-3", "cut-after-1", "status-500"])
@pytest.mark.parametrize("stage", [*range(1, 15), 20])
async def test_cancelled_at_any_checkpoint_of_a_second_answer_nothing_is_left(
    fake: Fake, clock: MockClock, stage: int, model: str
) -> None:
    async with trio.open_nursery() as nursery:
        asked = upstream(fake, retry=RetryPolicy(attempts=2))
        await nursery.start(asked.pool.run)
        await ask(asked, prompt("ok-1"))
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
            try:
                with suppress(UpstreamError):
                    async with asked.open(prompt(model)) as answer:
                        while await answer.receive():
                            continue
            finally:
                trio.lowlevel.remove_instrument(watch)
        with trio.fail_after(5):
            await fake.until(lambda: fake.open == len(asked.pool))
        assert (await ask(asked, prompt("echo", "still right"))).texts == ["still ", "right"]
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)
