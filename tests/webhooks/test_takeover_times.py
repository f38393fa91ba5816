"""When a webhook that was taken over is tried next, and what is taken over when. In virtual time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server.webhooks import WebhookOptions
from server.webhooks.delivery import NEVER_REQUESTED
from tests.generations.wrapped_log import Forgetful, Slow, events_of

from .receiver import Receiver
from .world import CONVERSATION, GENERATION, HOOK, OPTIONS, PLAIN_URL, Process, found_by, process

NewLog = Callable[[], Backend]


async def test_only_one_of_many_gives_it_up(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as lost:
        await lost.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
    async with process(log.process()) as a, process(log.process()) as b:
        left = await found_by(a)
        await trio.sleep(100)
        won: list[bool] = []

        async def take(here: Process) -> None:
            won.append(await here.webhooks.take_over(left))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, a)
            nursery.start_soon(take, b)
        assert sorted(won) == [False, True]
    assert [event.type for event in events_of(log, HOOK)] == ["webhook.requested", "webhook.gave_up"]


async def test_a_pending_wait_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    """By the times in the log: neither from the start, nor at once."""
    log, options = MemoryBackend(), replace(OPTIONS, schedule=(0.0, 100.0, 1_000.0, 500.0))
    async with Receiver(500, 500, 500, 200).in_memory() as receiver:
        async with process(log.process(), receiver.connect, options) as lost:
            await lost.register()
            await lost.end()
            await receiver.got(2)
            await trio.sleep(300)
        await trio.sleep(100)
        async with process(log.process(), receiver.connect, options) as here:
            assert await here.webhooks.take_over(await found_by(here))
            found = await here.ended()
    assert [one.status for one in found.tries] == [500, 500, 500, 200]
    assert receiver.posts[2].at - receiver.posts[1].at == pytest.approx(1_000, abs=2)
    assert receiver.posts[3].at - receiver.posts[2].at == pytest.approx(500, abs=2)


async def test_a_wait_that_is_over_is_not_waited_for_again(autojump_clock: MockClock) -> None:
    log, options = MemoryBackend(), replace(OPTIONS, schedule=(0.0, 100.0))
    async with Receiver(500, 200).in_memory() as receiver:
        async with process(log.process(), receiver.connect, options) as lost:
            await lost.register()
            await lost.end()
            await receiver.got(1)
            await trio.sleep(1)
        await trio.sleep(10_000)
        async with process(log.process(), receiver.connect, options) as here:
            assert await here.webhooks.take_over(await found_by(here))
            before = trio.current_time()
            await receiver.got(2)
            assert trio.current_time() - before < 2
            await here.ended()


async def test_the_next_one_may_die_as_well(autojump_clock: MockClock) -> None:
    log, options = MemoryBackend(), replace(OPTIONS, schedule=(0.0, *[100.0] * 6))
    async with Receiver(500, 500, 500, 500, 200).in_memory() as receiver:
        async with process(log.process(), receiver.connect, options) as first:
            await first.register()
            await first.end()
            await receiver.got(1)
            await trio.sleep(1)
        for number in range(2, 6):
            async with process(log.process(), receiver.connect, options) as here:
                assert await here.webhooks.take_over(await found_by(here))
                await receiver.got(number)
                await trio.sleep(1)
        async with process(log.process()) as last:
            found = await last.ended()
            assert await last.has_no_open_hook()
    assert [one.attempt for one in found.tries] == [1, 2, 3, 4, 5]
    waited = [second.at - first.at for first, second in zip(receiver.posts, receiver.posts[1:], strict=False)]
    assert waited == pytest.approx([100] * 4, abs=3)


async def test_a_shorter_schedule_than_before(autojump_clock: MockClock) -> None:
    """Settings may change between two processes."""
    log = MemoryBackend()
    async with Receiver(500).in_memory() as receiver:
        async with process(log.process(), receiver.connect, replace(OPTIONS, schedule=(0.0, 1.0, 1e6))) as lost:
            await lost.register()
            await lost.end()
            await receiver.got(2)
            await trio.sleep(1)
        async with process(log.process(), receiver.connect, replace(OPTIONS, schedule=(0.0,))) as here:
            assert await here.webhooks.take_over(await found_by(here))
            found = await here.ended()
    assert (found.status, len(found.tries), len(receiver.posts)) == ("gave_up", 2, 2)


async def test_a_generation_that_was_never_requested(autojump_clock: MockClock) -> None:
    """It may still be on its way, so it is given a minute; and as long again as the store may be waited for."""
    log = MemoryBackend()
    async with process(log.process()) as lost:
        await lost.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await trio.sleep(10)
    async with process(log.process()) as here, process(log.process(), patience=100.0) as patient:
        left = await found_by(here)
        await trio.sleep(49)
        assert not await here.webhooks.take_over(left)
        await trio.sleep(2)
        assert not await patient.webhooks.take_over(left)
        assert await here.webhooks.take_over(left)
        found = await here.ended()
        assert (found.status, found.reason) == ("gave_up", NEVER_REQUESTED)
        assert len(here.webhooks) == 0
        assert await here.has_no_open_hook()


async def test_one_of_our_own_that_never_got_going(autojump_clock: MockClock) -> None:
    """Its request's commit became known too late. What was to start it, should it come, changes nothing."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        left = await here.open_writer()
        assert not here.webhooks.drives(left.name)
        assert await here.webhooks.take_over(left)
        here.webhooks.start(GENERATION)
        assert not await here.webhooks.take_over(left)
        await here.end()
        await here.ended()
        await trio.sleep(100)
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("seconds", range(12))
async def test_one_that_is_started_while_it_is_taken_over(seconds: int, autojump_clock: MockClock) -> None:
    """At any moment of that, and also where it is taken over twice: one task drives it."""
    log = MemoryBackend()
    slow = Slow(log.process(), 2.0, ("append", "read", "find_key"))
    async with Receiver().in_memory() as receiver, process(slow, receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        await here.end()
        left = await here.open_writer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.webhooks.take_over, left)
            nursery.start_soon(here.webhooks.take_over, left)
            await trio.sleep(seconds + 0.5)
            here.webhooks.start(GENERATION)
        assert len(here.webhooks) == 1
        await here.ended()
        assert len(here.webhooks) == 0
    assert len(receiver.posts) == 1


async def test_without_a_secret_it_is_left_for_who_has_one(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver:
        async with process(log.process(), receiver.connect) as lost:
            await lost.register()
        async with process(log.process(), receiver.connect, WebhookOptions()) as poor:
            assert not await poor.webhooks.take_over(await found_by(poor))
        async with process(log.process(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            await here.end()
            await here.ended()


async def test_a_takeover_whose_answer_is_lost(autojump_clock: MockClock) -> None:
    """It is told as unavailable; what it has claimed it finds again, as one of its own that nobody drives."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver:
        async with process(log.process(), receiver.connect) as lost:
            await lost.register()
        forgetful = Forgetful(log.process())
        async with process(forgetful, receiver.connect, patience=1.0) as here:
            left = await found_by(here)
            forgetful.losing = 1
            assert await here.webhooks.take_over(left)
            await here.end()
            await here.ended()
    assert [event.type for event in events_of(log, HOOK)].count("webhook.taken_over") == 1
    assert len(receiver.posts) == 1
