"""What a run hears: everything in front of what it has written, whoever wrote it, before the write returns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore import Append, EventStore, NewEvent, StoreUnavailable, Writer
from eventstore.memory import MemoryLog
from server import events
from server.generation import desk as module
from server.generation.desk import Desk
from server.generation.pen import Pen

from .owning import CONVERSATION, GENERATION, REQUESTED, found, owner
from .rows import decided, proposed, started, tool_ended
from .wrapped_log import Mute, Slow, events_of

G = GENERATION


@asynccontextmanager
async def desks(log: MemoryLog, view: object = None, patience: float = 30.0) -> AsyncIterator[Desk]:
    """A desk whose generation has been requested, and an attempt at it has started."""
    async with owner(view or log.process(), patience=patience) as here:  # type: ignore[arg-type]
        await here.request()
        pen = Pen(here.store, CONVERSATION, G, 1, REQUESTED)
        desk = Desk(pen, found(steering={"a": 0}))
        await desk.write([started(G)])
        yield desk


async def other(log: MemoryLog, *news: NewEvent) -> None:
    """Another process writes these, one append each."""
    async with EventStore(log.process()).open() as store:
        for new in news:
            await store.append(Append(CONVERSATION, (new,)))


def steered(value: int) -> NewEvent:
    """Somebody has moved a slider."""
    return events.steering_changed(G, "a", value, "Ada")


async def test_what_others_wrote_is_heard_before_the_write_returns(autojump_clock: MockClock) -> None:
    """With no hint of it, and from another process."""
    log = MemoryLog()
    async with desks(log, Mute(log.process())) as desk:
        await desk.write([proposed(G, "call_1", asks=True), proposed(G, "call_2", asks=True)])
        await other(log, decided(G, "call_2"), steered(7), events.message_posted("m", "user", "x", None, "Ada"))
        assert (desk.steering, desk.call("call_2").status) == ({"a": 0}, "proposed")
        await desk.write([events.token(G, "x")])
        assert desk.steering == {"a": 7}
        assert [call.status for call in desk.calls] == ["proposed", "approved"]
        assert desk.position == len(events_of(log, CONVERSATION))


async def test_a_thousand_of_them_too(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 7)
    log = MemoryLog()
    async with desks(log) as desk:
        await other(log, *(steered(number) for number in range(40)))
        await desk.write([events.token(G, "x")])
        assert desk.steering == {"a": 39}


async def test_other_generations_are_not_heard(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log) as desk:
        await other(log, events.steering_changed("gen_2", "a", 9, "Ada"), proposed("gen_2"))
        await desk.write([events.token(G, "x")])
        assert (desk.steering, desk.calls) == ({"a": 0}, ())


async def test_its_own_events_are_heard_as_others_are(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log) as desk:
        await desk.write([proposed(G), events.step_finished(G, "s", [1])])
        await desk.write([events.tool_started(G, "call_1")])
        await desk.write([tool_ended(G)])
        assert (desk.call("call_1").status, desk.call("call_1").result) == ("finished", "done")
        assert desk.steps == {"s": [1]}
        with pytest.raises(StopIteration):
            desk.call("call_2")


async def test_a_later_attempt_finds_the_same(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log) as desk:
        await desk.write([proposed(G, asks=True), events.step_finished(G, "s", None)])
        await other(log, decided(G, decision="modified", arguments={"order": 8}), steered(3), steered(4))
        await desk.write([events.tool_started(G, "call_1")])
        taken = events.generation_started(G, 2, "worker-2")
        appended = await desk.store.append(Append(CONVERSATION, (taken,), writer=Writer(G, 2, 1)))
        second = Desk(Pen(desk.store, CONVERSATION, G, 2, appended.last), found(steering={"a": 0}))
        await second.take_up(appended.last)
        assert (second.calls, second.steps, second.steering) == (desk.calls, desk.steps, desk.steering)
        assert second.position == appended.last
        assert second.call("call_1").arguments == {"order": 8}


async def test_many_wait_at_once_while_others_write(autojump_clock: MockClock) -> None:
    """Each is woken by what it waits for; nothing is heard twice, by whichever of them it is heard first."""
    log = MemoryLog()
    async with desks(log, Slow(log.process(), 0.5, only=("append", "read"))) as desk:
        names = [f"call_{number}" for number in range(5)]
        await desk.write([proposed(G, name, asks=True) for name in names])
        woken: list[str] = []

        async def wait(name: str) -> None:
            await desk.until(lambda: not desk.call(name).waits)
            woken.append(name)

        async def talk() -> None:
            for _ in range(10):
                await desk.write([events.token(G, "x")])

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(wait, name)
            await wait_all_tasks_blocked()
            nursery.start_soon(talk)
            for name in reversed(names):
                await other(log, decided(G, name))
                await trio.sleep(2)
        assert woken == names[::-1]
    assert desk.position == len(events_of(log, CONVERSATION))


async def test_what_is_true_already_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with desks(MemoryLog()) as desk:
        with trio.fail_after(0):
            await desk.until(lambda: True)


async def test_waiting_without_a_hint(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log) as desk, owner(Mute(log.process())) as there:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.until, lambda: desk.steering == {"a": 5})
            await trio.sleep(10)
            await there.store.append(Append(CONVERSATION, (steered(5),)))
        assert desk.steering == {"a": 5}


async def test_a_write_that_is_cut_off_is_heard_with_the_next(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log, Slow(log.process(), 1.0)) as desk:
        with trio.move_on_after(0.75):
            await desk.write([events.step_finished(G, "s", 1)])
        assert desk.steps == {}
        await desk.write([events.token(G, "x")])
        assert desk.steps == {"s": 1}


async def test_a_log_that_is_away(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log, patience=3.0) as desk:
        log.available = False
        with pytest.raises(StoreUnavailable):
            await desk.write([events.token(G, "x")])


async def test_the_clock_is_the_logs(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log) as desk:
        await trio.sleep(1_000)
        assert await desk.clock() == log.now()


async def test_a_write_that_stands_is_no_failure(autojump_clock: MockClock) -> None:
    """The log goes away between its append and the reading of what lies in front of it: that is waited for."""
    log = MemoryLog()
    async with desks(log, patience=3.0) as desk:
        await other(log, steered(7))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.write, [events.step_finished(G, "s", 1)])
            while log.streams[CONVERSATION].events[-1].type != "step.finished":
                await trio.lowlevel.checkpoint()
            log.available = False
            await trio.sleep(1_000)
            assert desk.steps == {}
            log.available = True
        assert (desk.steps, desk.steering) == ({"s": 1}, {"a": 7})
    assert [event.type for event in events_of(log, CONVERSATION)].count("step.finished") == 1


async def test_one_that_is_cut_off_behind_its_append_is_not_written_twice(autojump_clock: MockClock) -> None:
    """The same events again are the same write; and other ones hear of it all the same."""
    log = MemoryLog()
    for again in (True, False):
        async with desks(log, patience=3.0) as desk:
            await other(log, steered(7))
            step = [events.step_finished(G, "s", 1)]
            with trio.move_on_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(desk.write, step)
                    while log.streams[CONVERSATION].events[-1].type != "step.finished":
                        await trio.lowlevel.checkpoint()
                    log.available = False
            log.available = True
            await desk.write(step if again else [events.token(G, "x")])
            assert (desk.steps, desk.steering) == ({"s": 1}, {"a": 7})
        assert [event.type for event in events_of(log, CONVERSATION)].count("step.finished") == 1
        log.streams.clear()


async def test_waiting_and_the_clock_outlast_an_outage(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with desks(log, patience=3.0) as desk:
        await desk.write([proposed(G, asks=True)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.until, lambda: not desk.call("call_1").waits)
            await trio.sleep(1)
            assert desk.figures.only_waits
            log.available = False
            nursery.start_soon(desk.clock)
            desk.store.wakeups.wake_all()  # as when the connection for hints comes back, or goes
            await trio.sleep(1_000)
            log.available = True
            await other(log, decided(G, "call_1"))
        assert desk.call("call_1").status == "approved"
        assert not desk.figures.only_waits
