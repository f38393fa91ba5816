"""When a webhook is taken over, and when its next try is after that. In virtual time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server.webhooks import WebhookOptions
from server.webhooks.delivery import NEVER_REQUESTED
from tests.generations.unreliable_logs import Forgetful, Slow, events_of

from .receiver import Receiver
from .webhook_process import CONVERSATION, GENERATION, HOOK, OPTIONS, PLAIN_URL, Process, found_by, process

NewLog = Callable[[], Backend]


async def test_one_of_many_gives_up_an_unrequested_webhook(autojump_clock: MockClock) -> None:
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


async def test_pending_wait_continues(autojump_clock: MockClock) -> None:
    """By the times in the log: neither from its start, nor at once."""
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


async def test_elapsed_wait_is_not_repeated(autojump_clock: MockClock) -> None:
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


async def test_repeated_takeovers(autojump_clock: MockClock) -> None:
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


async def test_takeover_with_a_shorter_schedule(autojump_clock: MockClock) -> None:
    """The setting changed between the two processes."""
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


async def test_webhook_of_a_missing_request_waits_a_minute(autojump_clock: MockClock) -> None:
    """The request may still be on its way, so it gets a minute, and as long again as the store may be waited
    for.
    """
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


async def test_own_unstarted_webhook_is_taken_over(autojump_clock: MockClock) -> None:
    """The commit of its request became known too late; a late start changes nothing."""
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
async def test_start_during_the_takeover_runs_one_task(seconds: int, autojump_clock: MockClock) -> None:
    """At any moment of it, and also when it is taken over twice."""
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


async def test_process_without_a_secret_leaves_webhooks(autojump_clock: MockClock) -> None:
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


async def test_takeover_with_a_lost_answer(autojump_clock: MockClock) -> None:
    """It is reported as unavailable; the claimed webhook is found again as an own one without a task."""
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
