"""When a process is gone, one other process takes its webhooks over and goes on where it was.

On the in-memory log in virtual time, and on Postgres, where the free liveness lock tells that a process is
gone.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from eventstore import OpenWriter
from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.harness.databases import TestDatabase

from .receiver import Receiver, silence
from .webhook_process import CONVERSATION, GENERATION, HOOK, OPTIONS, PLAIN_URL, Process, found_by, process

NewLog = Callable[[], Backend]


@pytest.fixture(params=["memory", "postgres"])
def new_log(request: pytest.FixtureRequest) -> NewLog:
    """Makes a further process's view of the test's log."""
    if request.param == "memory":
        return MemoryBackend().process
    database: TestDatabase = request.getfixturevalue("database")
    return lambda: PostgresBackend(PostgresOptions(database.app_url, database.owner_url))


async def test_takeover_before_the_end(new_log: NewLog) -> None:
    async with Receiver().in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register()
            assert await lost.told() == ["webhook.requested"]
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            assert here.webhooks.drives(HOOK)
            await here.end()
            assert (await here.ended()).status == "delivered"
            assert await here.has_no_open_hook()
            assert await here.told() == [
                "webhook.requested",
                "webhook.taken_over",
                "webhook.tried",
                "webhook.delivered",
            ]
    assert len(receiver.posts) == 1


async def test_takeover_after_the_end(new_log: NewLog) -> None:
    """The first process died before its first try."""
    async with Receiver().in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
            await lost.request()
            await lost.end()
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            assert (await here.ended()).status == "delivered"
    (got,) = receiver.posts
    assert got.verified()["type"] == "generation.completed"


async def test_takeover_between_a_post_and_its_record(new_log: NewLog) -> None:
    """The receiver gets it twice, and can tell by the id."""
    async with Receiver(silence, 200).in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register()
            await lost.end()
            await receiver.got(1)
        async with process(new_log(), receiver.connect) as here:
            assert await here.webhooks.take_over(await found_by(here))
            found = await here.ended()
    assert [(one.attempt, one.status) for one in found.tries] == [(1, 200)]
    assert [post.headers["webhook-id"] for post in receiver.posts] == ["msg_1", "msg_1"]
    assert receiver.posts[0].body == receiver.posts[1].body


async def test_one_of_many_takes_over(new_log: NewLog) -> None:
    """All find the webhook at once and claim the same epoch."""
    async with Receiver().in_memory() as receiver:
        async with process(new_log(), receiver.connect) as lost:
            await lost.register()
        won: list[bool] = []
        async with (
            process(new_log(), receiver.connect) as a,
            process(new_log(), receiver.connect) as b,
            process(new_log(), receiver.connect) as c,
        ):
            left = await found_by(a)

            async def take(here: Process) -> None:
                won.append(await here.webhooks.take_over(left))

            async with trio.open_nursery() as nursery:
                for here in (a, b, c, a):
                    nursery.start_soon(take, here)
            assert sorted(won) == [False, False, False, True]
            assert sorted([len(a.webhooks), len(b.webhooks), len(c.webhooks)]) == [0, 0, 1]
            # Who comes later with what it saw before is as late.
            for here in (a, b, c):
                assert not await here.webhooks.take_over(left)
            await a.end()
            assert (await a.ended()).status == "delivered"
            assert (await a.told()).count("webhook.taken_over") == 1
    assert len(receiver.posts) == 1


async def test_process_taken_for_dead_stops_at_its_next_record(new_log: NewLog) -> None:
    """Thought dead, it goes on, and ends without a word at its first record."""
    options = replace(OPTIONS, schedule=(0.0, 0.5, 0.5))
    async with Receiver(500, 500, 200).in_memory() as receiver:
        async with process(new_log(), receiver.connect, options) as old_process:
            await old_process.register()
            async with process(new_log(), receiver.connect, options) as here:
                left = OpenWriter(HOOK, HOOK, 1, old_process.store.owner)
                assert await here.webhooks.take_over(left)
                await here.end()
                assert (await here.ended()).status == "delivered"
                with trio.fail_after(20):
                    while len(old_process.webhooks):
                        await trio.sleep(0.05)
                told = await here.told()
    assert told.count("webhook.tried") in (2, 3)
    assert told[-1] == "webhook.delivered"
    assert told.count("webhook.delivered") == 1
