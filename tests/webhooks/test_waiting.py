"""A run waits, and a receiver is told: every kind of wait, every way in which it ends, every kind of receiver.

In virtual time on the in-memory log.
"""

import json
from dataclasses import replace
from datetime import datetime

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.config.web_addresses import PublicUrl
from server.webhooks import delivery
from server.webhooks.webhook_events import Told
from tests.conversations.event_builders import decided, proposed
from tests.generations.unreliable_logs import events_of
from tests.openapi.contract import validator

from .receiver import Receiver, silence
from .wait_events import ARGUMENTS, GO_ON, KINDS, SECRET_ARGUMENT, TABLE
from .webhook_process import CONVERSATION, GENERATION, HOOK, OPTIONS, process, types

BOTH: tuple[Told, ...] = ("ended", "waiting")
PUBLIC = replace(OPTIONS, public=PublicUrl("https://tape.example"))


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """The type and the id of each message that was sent, after a check of its signature."""
    return [(post.verified()["type"], post.headers["webhook-id"]) for post in receiver.posts]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_receiver_is_told(kind: str, autojump_clock: MockClock) -> None:
    one, log = KINDS[kind], MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect, PUBLIC) as here:
        await here.register(events=BOTH)
        await here.write(*one.begin)
        await receiver.got(1)
        shown = await here.seen(lambda found: found.waits != [] and found.waits[0].status == "delivered")
    body = receiver.posts[0].verified()
    validator("WaitingMessage").validate(body)
    began = next(event for event in reversed(events_of(log, CONVERSATION)))
    assert body["type"] == "generation.waiting"
    assert datetime.fromisoformat(body["timestamp"]) == began.at
    assert body["data"] == {
        "generation": GENERATION,
        "conversation": CONVERSATION,
        "position": began.position,
        "waiting_for": one.waiting_for,
        "url": f"https://tape.example/v1/generations/{GENERATION}",
        "snapshot": f"https://tape.example/v1/generations/{GENERATION}",
        **one.data,
    }
    assert receiver.posts[0].headers["webhook-id"] == f"msg_1_{began.position}"
    assert SECRET_ARGUMENT.encode() not in receiver.posts[0].body
    assert (shown.status, shown.events, shown.tries) == ("pending", list(BOTH), [])
    (wait,) = shown.waits
    assert (wait.position, wait.waiting_for) == (began.position, one.waiting_for)
    assert wait.calls == [call["call"] for call in one.data["calls"]]
    assert [(each.attempt, each.status) for each in wait.tries] == [(1, 200)]


@pytest.mark.parametrize(("kind", "end"), TABLE)
async def test_a_wait_that_was_told_ends(kind: str, end: str, autojump_clock: MockClock) -> None:
    """Then the next message is that of the generation's end."""
    one, log = KINDS[kind], MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*one.begin)
        await receiver.got(1)
        last = one.ends[end]
        if last.type in event_types.TERMINAL:
            await here.end(last)
        else:
            await here.write(last)
            await trio.sleep(100)
            await here.end()
        found = await here.ended()
    assert found.status == "delivered"
    assert [wait.status for wait in found.waits] == ["delivered"]
    assert told(receiver)[0] == ("generation.waiting", f"msg_1_{3 + len(one.begin) - 1}")
    assert [name for _, name in told(receiver)[1:]] == ["msg_1"]
    assert types(log)[-2:] == ["webhook.tried", "webhook.delivered"]


@pytest.mark.parametrize(("kind", "end"), TABLE)
async def test_tries_stop_when_the_wait_is_over(kind: str, end: str, autojump_clock: MockClock) -> None:
    """The receiver is down; nobody is asked for what somebody else has done."""
    one, log = KINDS[kind], MemoryBackend()
    async with Receiver(500, 500, 200).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*one.begin)
        await receiver.got(2)
        await trio.sleep(1)
        assert receiver.posts[1].at - receiver.posts[0].at == pytest.approx(5, abs=0.5)
        last = one.ends[end]
        if last.type in event_types.TERMINAL:
            await here.end(last)
        else:
            await here.write(last)
            over = await here.seen(lambda found: found.waits[0].status == "over")
            assert over.status == "pending"
            await trio.sleep(86_000)
            await here.end()
        found = await here.ended()
    assert [name for _, name in told(receiver)] == [*[told(receiver)[0][1]] * 2, "msg_1"]
    assert receiver.posts[0].body == receiver.posts[1].body
    (wait,) = found.waits
    assert (wait.status, [each.status for each in wait.tries]) == ("over", [500, 500])
    assert [(each.attempt, each.status) for each in found.tries] == [(1, 200)]


@pytest.mark.parametrize(("kind", "end"), TABLE)
async def test_the_wait_ends_during_a_slow_try(kind: str, end: str, autojump_clock: MockClock) -> None:
    """The try is recorded, and is the last; the message about the end comes after it, not beside it."""
    one, log = KINDS[kind], MemoryBackend()
    async with Receiver(silence, 200).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*one.begin)
        await receiver.got(1)
        last = one.ends[end]
        await (here.end(last) if last.type in event_types.TERMINAL else here.write(last))
        if last.type not in event_types.TERMINAL:
            await trio.sleep(600)
            await here.end()
        found = await here.ended()
    (wait,) = found.waits
    assert (wait.status, [each.error for each in wait.tries]) == ("over", ["timeout"])
    assert [name for _, name in told(receiver)][1:] == ["msg_1"]
    assert receiver.most_under_way == 1
    assert receiver.posts[1].at - receiver.posts[0].at >= OPTIONS.timeout


@pytest.mark.parametrize("kind", KINDS)
async def test_a_later_wait_is_told_anew(kind: str, autojump_clock: MockClock) -> None:
    one, log = KINDS[kind], MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*one.begin)
        await receiver.got(1)
        await here.write(one.ends[GO_ON[kind]])
        await here.write(*one.again)
        await receiver.got(2)
        await here.end()
        found = await here.ended()
    first, second, end = told(receiver)
    assert (first[0], second[0]) == ("generation.waiting",) * 2
    assert len({first[1], second[1], end[1]}) == 3
    assert [wait.status for wait in found.waits] == ["delivered", "delivered"]
    assert [f"msg_1_{wait.position}" for wait in found.waits] == [first[1], second[1]]


@pytest.mark.parametrize("kind", KINDS)
async def test_410_ends_the_webhook(kind: str, autojump_clock: MockClock) -> None:
    """The receiver wants no more messages, of the end neither."""
    log = MemoryBackend()
    async with Receiver(500, 410).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*KINDS[kind].begin)
        found = await here.ended()
        await here.end()
        await trio.sleep(1_000)
        assert await here.has_no_open_hook()
    assert (found.status, found.reason, found.tries) == ("gave_up", delivery.GONE, [])
    assert [(wait.status, len(wait.tries)) for wait in found.waits] == [("gave_up", 2)]
    assert len(receiver.posts) == 2
    assert here.webhooks.counter.counts == {("delivered",): 0, ("failed",): 2, ("gave_up",): 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_receiver_that_is_down_for_a_day(kind: str, autojump_clock: MockClock) -> None:
    """The message about the wait is given up after its schedule; that about the end has tries of its own."""
    log = MemoryBackend()
    async with Receiver(*[500] * 7, 200).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*KINDS[kind].begin)
        given_up = await here.seen(lambda found: found.waits != [] and found.waits[0].status == "gave_up")
        await trio.sleep(86_000)
        assert len(receiver.posts) == 7
        await here.end()
        found = await here.ended()
    assert (given_up.status, len(given_up.waits[0].tries)) == ("pending", 7)
    assert (found.status, [each.attempt for each in found.tries]) == ("delivered", [1])
    began = receiver.posts[0].at
    assert [round(post.at - began) for post in receiver.posts[:7]] == [0, 5, 305, 2105, 9305, 27305, 63305]


async def test_a_pending_message_is_over_with_the_first_try_of_the_end(autojump_clock: MockClock) -> None:
    """Also while the receiver is down, and the message about the end is tried again and again."""
    log = MemoryBackend()
    async with Receiver(500).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(*KINDS["approval"].begin)
        await receiver.got(2)
        await here.end()
        found = await here.seen(lambda found: len(found.tries) == 2)
    assert (found.status, [wait.status for wait in found.waits]) == ("pending", ["over"])


@pytest.mark.parametrize("kind", KINDS)
async def test_who_did_not_ask_is_not_told(kind: str, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.write(*KINDS[kind].begin)
        await trio.sleep(100)
        assert types(log) == ["webhook.requested"]
        await here.end()
        found = await here.ended()
    assert (found.events, found.waits) == (["ended"], [])
    assert told(receiver) == [("generation.completed", "msg_1")]


async def test_who_wants_waits_alone_is_not_told_of_the_end(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=("waiting",))
        await here.write(*KINDS["budget"].begin)
        await receiver.got(1)
        await here.end()
        found = await here.ended()
        assert await here.has_no_open_hook()
    assert (found.status, found.reason, found.tries) == ("done", None, [])
    assert types(log)[-1] == "webhook.done"
    assert [kind for kind, _ in told(receiver)] == ["generation.waiting"]


async def test_calls_side_by_side(autojump_clock: MockClock) -> None:
    """Those of a moment are one message; one that comes while others wait is told at once, alone."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(proposed(GENERATION, "call_1", asks=True))
        await here.write(proposed(GENERATION, "call_2", asks=True))
        await receiver.got(1)
        await trio.sleep(60)
        await here.write(proposed(GENERATION, "call_3", asks=True))
        await receiver.got(2)
        await here.write(decided(GENERATION, "call_2"))
        await trio.sleep(60)
        await here.end()
        await here.ended()
    bodies = [post.verified()["data"] for post in receiver.posts[:2]]
    assert [[call["call"] for call in body["calls"]] for body in bodies] == [["call_1", "call_2"], ["call_3"]]
    assert len(receiver.posts) == 3


async def test_a_decision_of_the_first_moment_is_not_asked_for(autojump_clock: MockClock) -> None:
    log, options = MemoryBackend(), replace(OPTIONS, pause=1.0)
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect, options) as here:
        await here.register(events=BOTH)
        await here.write(proposed(GENERATION, asks=True, arguments=ARGUMENTS))
        await trio.sleep(0.5)
        await here.write(decided(GENERATION, seen=ARGUMENTS))
        await here.end()
        found = await here.ended()
    assert found.waits == []
    assert told(receiver) == [("generation.completed", "msg_1")]


async def test_a_wait_in_a_stream_of_tokens_is_told(autojump_clock: MockClock) -> None:
    """Another part of the run goes on writing: the log is never quiet."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=BOTH)
        await here.write(proposed(GENERATION, asks=True))
        async with trio.open_nursery() as nursery:

            async def write_on() -> None:
                while True:
                    await here.write(event_types.token(GENERATION, "x"))
                    await trio.sleep(0.003)

            nursery.start_soon(write_on)
            began = trio.current_time()
            await receiver.got(1)
            assert trio.current_time() - began < 5
            nursery.cancel_scope.cancel()


async def test_many_waits_are_kept_in_bounds(autojump_clock: MockClock) -> None:
    """Of those that are over the newest hundred are shown."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(events=("waiting",))
        for number in range(105):
            await here.write(proposed(GENERATION, f"call_{number}", asks=True))
            await receiver.got(number + 1)
            await here.write(decided(GENERATION, f"call_{number}"))
            await trio.sleep(1)
        await here.end()
        found = await here.ended()
    assert [wait.calls for wait in found.waits[-2:]] == [["call_103"], ["call_104"]]
    assert len(found.waits) == 101
    assert json.loads(events_of(log, HOOK)[-1].data) == {}
