"""A process is gone between a wait and its delivery: another one tells of it, and of nothing twice but by the id.

On the in-memory log, and on Postgres, where the free liveness lock tells that a process is gone.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Never

import pytest
import trio
from trio.testing import MockClock

from eventstore import OpenWriter
from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from eventstore.postgres import PostgresBackend, PostgresOptions
from server.observability.metrics import Counter
from server.webhooks.wait_messages import WaitTries
from server.webhooks.webhook_events import Told, WaitingCall, WaitMessage, WebhookState
from tests.conversations.event_builders import decided, moment, proposed, rows
from tests.harness.databases import TestDatabase

from .receiver import Receiver, silence
from .wait_events import GO_ON, KINDS
from .webhook_process import CONVERSATION, GENERATION, HOOK, OPTIONS, PLAIN_URL, found_by, process

NewLog = Callable[[], Backend]
BOTH: tuple[Told, ...] = ("ended", "waiting")


@pytest.fixture(params=["memory", "postgres"])
def new_log(request: pytest.FixtureRequest) -> NewLog:
    """Makes a further process's view of the test's log."""
    if request.param == "memory":
        return MemoryBackend().process
    database: TestDatabase = request.getfixturevalue("database")
    return lambda: PostgresBackend(PostgresOptions(database.app_url, database.owner_url))


@pytest.mark.parametrize("kind", KINDS)
async def test_gone_before_the_wait_was_noticed(kind: str, new_log: NewLog) -> None:
    async with Receiver().in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL, events=BOTH)
            await lost.request()
            await lost.write(*KINDS[kind].begin)
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            await receiver.got(1)
            await here.end()
            assert (await here.ended()).status == "delivered"
    assert [post.verified()["type"] for post in receiver.posts] == ["generation.waiting", "generation.completed"]


@pytest.mark.parametrize("kind", KINDS)
async def test_gone_between_a_post_and_its_record(kind: str, new_log: NewLog) -> None:
    """The receiver gets it twice, with the same id and body."""
    async with Receiver(silence, 200).in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register(events=BOTH)
            await lost.write(*KINDS[kind].begin)
            await receiver.got(1)
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            await receiver.got(2)
            await here.end()
            found = await here.ended()
            assert (await here.told()).count("webhook.waiting") == 1
    first, second, _ = receiver.posts
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [(wait.status, [each.attempt for each in wait.tries]) for wait in found.waits] == [("delivered", [1])]


@pytest.mark.parametrize("kind", KINDS)
async def test_gone_after_the_delivery(kind: str, new_log: NewLog) -> None:
    """The wait goes on, and is not told again; a later one is."""
    one = KINDS[kind]
    async with Receiver().in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register(events=BOTH)
            await lost.write(*one.begin)
            await lost.seen(lambda found: [wait.status for wait in found.waits] == ["delivered"])
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            await here.write(one.ends[GO_ON[kind]])
            await here.write(*one.again)
            await receiver.got(2)
            await here.end()
            found = await here.ended()
    assert [wait.status for wait in found.waits] == ["delivered", "delivered"]
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == len(receiver.posts) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_the_wait_ends_while_no_process_is_there(kind: str, new_log: NewLog) -> None:
    """A message that was not delivered is over: nobody is told of what needs nobody."""
    async with Receiver(silence, 200).in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register(events=BOTH)
            await lost.write(*KINDS[kind].begin)
            await receiver.got(1)
        async with process(new_log(), receiver.connect) as here:
            await here.write(KINDS[kind].ends[GO_ON[kind]])
            assert await here.webhooks.take_over(await found_by(here))
            await here.seen(lambda found: [wait.status for wait in found.waits] == ["over"])
            await here.end()
            assert (await here.ended()).status == "delivered"
    assert [post.verified()["type"] for post in receiver.posts[1:]] == ["generation.completed"]


async def test_a_pending_message_is_not_over_before_the_log_is_read(new_log: NewLog) -> None:
    """1. The wait began late in a long log. 2. Who takes over reads the log in pages, from the request on."""
    async with Receiver(500, 200).in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register(events=BOTH)
            for number in range(30):
                await lost.write(*(proposed(GENERATION, f"call_{number}_{one}") for one in range(50)))
            await lost.write(*KINDS["approval"].begin)
            await lost.seen(lambda found: bool(found.waits) and len(found.waits[0].tries) == 1)
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            found = await here.seen(lambda found: found.waits[0].status != "pending")
            assert (found.waits[0].status, len(found.waits[0].tries)) == ("delivered", 2)
            assert here.webhooks.drives(HOOK)


async def test_a_wait_that_ended_in_a_long_log_is_not_told(new_log: NewLog) -> None:
    """Who takes over reads its beginning pages before its end: nothing is told before the head is reached."""
    options = replace(OPTIONS, pause=0.0)
    async with Receiver().in_memory() as receiver:
        async with process(new_log(), options=options) as lost:
            await lost.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL, events=BOTH)
            await lost.request()
            await lost.write(*KINDS["approval"].begin)
            for number in range(30):
                await lost.write(*(proposed(GENERATION, f"call_{number}_{one}") for one in range(100)))
            await lost.write(KINDS["approval"].ends["approved"])
        async with process(new_log(), receiver.connect, options) as here:
            assert await here.webhooks.take_over(await found_by(here))
            await here.end()
            assert (await here.ended()).waits == []
    assert [post.verified()["type"] for post in receiver.posts] == ["generation.completed"]


async def test_the_pause_before_the_next_try_goes_on(autojump_clock: MockClock) -> None:
    """By the times in the log: neither from its start, nor at once."""
    log, options = MemoryBackend(), replace(OPTIONS, schedule=(0.0, 100.0, 1_000.0))
    async with Receiver(500, 500, 200).in_memory() as receiver:
        async with process(log.process(), receiver.connect, options) as lost:
            await lost.register(events=BOTH)
            await lost.write(*KINDS["approval"].begin)
            await receiver.got(2)
            await trio.sleep(300)
        await trio.sleep(100)
        async with process(log.process(), receiver.connect, options) as here:
            assert await here.webhooks.take_over(await found_by(here))
            await receiver.got(3)
    assert receiver.posts[2].at - receiver.posts[1].at == pytest.approx(1_000, abs=2)


async def test_a_message_is_not_over_before_its_wait_is_read(autojump_clock: MockClock) -> None:
    """What this process has in memory of the log may end in front of what another one has told of."""
    at = moment(9)
    message = WaitMessage(9, at, "approval", (WaitingCall("call_1", "refund", 9),))
    webhook = WebhookState(GENERATION, CONVERSATION, PLAIN_URL, at, waits=(message,), told_up_to=9)

    async def nothing(*_: object) -> Never:
        raise AssertionError

    tries = WaitTries(webhook, CONVERSATION, OPTIONS, Counter(), nothing, nothing)
    begun = proposed(GENERATION, asks=True)
    for position, event in ((5, proposed(GENERATION, "call_0")), (9, begun)):
        tries.add(rows([event], after=position - 1)[0])
        assert tries.due == trio.current_time()
    tries.add(rows([decided(GENERATION)], after=9)[0])
    assert tries.due == -math.inf


async def test_a_process_taken_for_dead_stops_at_its_next_record(new_log: NewLog) -> None:
    async with Receiver(500, 200).in_memory() as receiver, process(new_log(), receiver.connect) as old:
        await old.register(events=BOTH)
        await old.write(*KINDS["approval"].begin)
        await old.seen(lambda found: bool(found.waits) and len(found.waits[0].tries) == 1)
        async with process(new_log(), receiver.connect) as here:
            left = OpenWriter(HOOK, HOOK, 1, old.store.owner)
            assert await here.webhooks.take_over(left)
            await here.seen(lambda found: found.waits[0].status == "delivered")
            await here.write(KINDS["approval"].ends["approved"])
            await here.write(*KINDS["approval"].again)
            await here.seen(lambda found: [wait.status for wait in found.waits] == ["delivered"] * 2)
            with trio.fail_after(20):
                while len(old.webhooks):
                    await trio.sleep(0.05)
            assert (await here.told()).count("webhook.waiting") == 2
