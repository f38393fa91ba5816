"""A run's view of the log: every event before its own write is processed, whoever wrote it, before the
write returns.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore import Append, EventStore, Fenced, NewEvent, StoreUnavailable, Writer
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.generations.run import run_log as module
from server.generations.run.run_log import FencedWriter, RunLog
from tests.conversations.event_builders import decided, proposed, started, tool_ended

from .run_owner import CONVERSATION, GENERATION, REQUESTED, found, owner
from .unreliable_logs import Mute, Slow, events_of

G = GENERATION


@asynccontextmanager
async def open_run_log(log: MemoryBackend, view: object = None, patience: float = 30.0) -> AsyncIterator[RunLog]:
    """The log view of an attempt whose generation has been requested and started."""
    async with owner(view or log.process(), patience=patience) as here:  # type: ignore[arg-type]
        await here.request()
        writer = FencedWriter(here.store, CONVERSATION, G, 1, REQUESTED)
        run_log = RunLog(writer, found(steering={"a": 0}))
        await run_log.write([started(G)])
        yield run_log


async def append_elsewhere(log: MemoryBackend, *news: NewEvent) -> None:
    """Another process appends these events one by one."""
    async with EventStore(log.process()).open() as store:
        for new in news:
            await store.append(Append(CONVERSATION, (new,)))


def steered(value: int) -> NewEvent:
    """A client has changed a parameter."""
    return event_types.steering_changed(G, "a", value, "Ada")


async def test_events_of_others_are_processed_before_the_write_returns(autojump_clock: MockClock) -> None:
    """From another process, without a notification."""
    log = MemoryBackend()
    async with open_run_log(log, Mute(log.process())) as run_log:
        await run_log.write([proposed(G, "call_1", asks=True), proposed(G, "call_2", asks=True)])
        await append_elsewhere(
            log, decided(G, "call_2"), steered(7), event_types.message_posted("m", "user", "x", None, "Ada")
        )
        assert (run_log.steering, run_log.call("call_2").status) == ({"a": 0}, "proposed")
        await run_log.write([event_types.token(G, "x")])
        assert run_log.steering == {"a": 7}
        assert [call.status for call in run_log.calls] == ["proposed", "approved"]
        assert run_log.position == len(events_of(log, CONVERSATION))


async def test_many_pages_of_events_are_processed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 7)
    log = MemoryBackend()
    async with open_run_log(log) as run_log:
        await append_elsewhere(log, *(steered(number) for number in range(40)))
        await run_log.write([event_types.token(G, "x")])
        assert run_log.steering == {"a": 39}


async def test_events_of_other_generations_are_ignored(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log) as run_log:
        await append_elsewhere(log, event_types.steering_changed("gen_2", "a", 9, "Ada"), proposed("gen_2"))
        await run_log.write([event_types.token(G, "x")])
        assert (run_log.steering, run_log.calls) == ({"a": 0}, ())


async def test_own_events_are_processed_too(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log) as run_log:
        await run_log.write([proposed(G), event_types.step_finished(G, "s", [1])])
        await run_log.write([event_types.tool_started(G, "call_1")])
        await run_log.write([tool_ended(G)])
        assert (run_log.call("call_1").status, run_log.call("call_1").result) == ("finished", "done")
        assert run_log.steps == {"s": [1]}
        with pytest.raises(StopIteration):
            run_log.call("call_2")


async def test_next_attempt_has_the_same_view(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log) as run_log:
        await run_log.write([proposed(G, asks=True), event_types.step_finished(G, "s", None)])
        await append_elsewhere(
            log, decided(G, decision="modified", arguments={"order": 8}), steered(3), steered(4)
        )
        await run_log.write([event_types.tool_started(G, "call_1")])
        taken = event_types.generation_started(G, 2, "worker-2")
        appended = await run_log.store.append(Append(CONVERSATION, (taken,), writer=Writer(G, 2, 1)))
        second = RunLog(FencedWriter(run_log.store, CONVERSATION, G, 2, appended.last), found(steering={"a": 0}))
        await second.catch_up(appended.last)
        assert (second.calls, second.steps, second.steering) == (run_log.calls, run_log.steps, run_log.steering)
        assert second.position == appended.last
        assert second.call("call_1").arguments == {"order": 8}


async def test_many_tasks_wait_for_different_events(autojump_clock: MockClock) -> None:
    """Each task is woken by its own condition, and no event is processed twice."""
    log = MemoryBackend()
    async with open_run_log(log, Slow(log.process(), 0.5, only=("append", "read"))) as run_log:
        names = [f"call_{number}" for number in range(5)]
        await run_log.write([proposed(G, name, asks=True) for name in names])
        woken: list[str] = []

        async def wait(name: str) -> None:
            await run_log.wait_until(lambda: not run_log.call(name).waits)
            woken.append(name)

        async def talk() -> None:
            for _ in range(10):
                await run_log.write([event_types.token(G, "x")])

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(wait, name)
            await wait_all_tasks_blocked()
            nursery.start_soon(talk)
            for name in reversed(names):
                await append_elsewhere(log, decided(G, name))
                await trio.sleep(2)
        assert woken == names[::-1]
    assert run_log.position == len(events_of(log, CONVERSATION))


async def test_true_condition_does_not_wait(autojump_clock: MockClock) -> None:
    async with open_run_log(MemoryBackend()) as run_log:
        with trio.fail_after(0):
            await run_log.wait_until(lambda: True)


async def test_wait_ends_without_a_notification(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log) as run_log, owner(Mute(log.process())) as there:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_log.wait_until, lambda: run_log.steering == {"a": 5})
            await trio.sleep(10)
            await there.store.append(Append(CONVERSATION, (steered(5),)))
        assert run_log.steering == {"a": 5}


async def test_cancelled_write_is_processed_with_the_next(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log, Slow(log.process(), 1.0)) as run_log:
        with trio.move_on_after(0.75):
            await run_log.write([event_types.step_finished(G, "s", 1)])
        assert run_log.steps == {}
        await run_log.write([event_types.token(G, "x")])
        assert run_log.steps == {"s": 1}


async def test_write_fails_when_the_log_is_unavailable(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log, patience=3.0) as run_log:
        log.available = False
        with pytest.raises(StoreUnavailable):
            await run_log.write([event_types.token(G, "x")])


async def test_clock_is_the_logs_clock(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log) as run_log:
        await trio.sleep(1_000)
        assert await run_log.clock() == log.now()


async def test_outage_after_the_append_is_waited_out(autojump_clock: MockClock) -> None:
    """The log goes away between the append and the reading of the events before it."""
    log = MemoryBackend()
    async with open_run_log(log, patience=3.0) as run_log:
        await append_elsewhere(log, steered(7))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_log.write, [event_types.step_finished(G, "s", 1)])
            while log.streams[CONVERSATION].events[-1].type != "step.finished":
                await trio.lowlevel.checkpoint()
            log.available = False
            await trio.sleep(1_000)
            assert run_log.steps == {}
            log.available = True
        assert (run_log.steps, run_log.steering) == ({"s": 1}, {"a": 7})
    assert [event.type for event in events_of(log, CONVERSATION)].count("step.finished") == 1


async def test_write_cancelled_after_its_append_is_not_repeated(autojump_clock: MockClock) -> None:
    """Writing the same events again is the same append; another write still processes them."""
    log = MemoryBackend()
    for again in (True, False):
        async with open_run_log(log, patience=3.0) as run_log:
            await append_elsewhere(log, steered(7))
            step = [event_types.step_finished(G, "s", 1)]
            with trio.move_on_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run_log.write, step)
                    while log.streams[CONVERSATION].events[-1].type != "step.finished":
                        await trio.lowlevel.checkpoint()
                    log.available = False
            log.available = True
            await run_log.write(step if again else [event_types.token(G, "x")])
            assert (run_log.steps, run_log.steering) == ({"s": 1}, {"a": 7})
        assert [event.type for event in events_of(log, CONVERSATION)].count("step.finished") == 1
        log.streams.clear()


async def test_wait_and_clock_survive_an_outage(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log, patience=3.0) as run_log:
        await run_log.write([proposed(G, asks=True)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_log.wait_until, lambda: not run_log.call("call_1").waits)
            await trio.sleep(1)
            assert run_log.stats.only_waits
            log.available = False
            nursery.start_soon(run_log.clock)
            run_log.store.wakeups.wake_all()  # as when the connection for hints comes back, or goes
            await trio.sleep(1_000)
            log.available = True
            await append_elsewhere(log, decided(G, "call_1"))
        assert run_log.call("call_1").status == "approved"
        assert not run_log.stats.only_waits


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (event_types.generation_started(G, 2, "worker-2"), "epoch"),
        (event_types.generation_cancelled(G, None, "Ada"), "closed"),
        (event_types.generation_failed(G, "worker_lost", "Gone.", retryable=True), "closed"),
    ],
    ids=lambda event: event.type if isinstance(event, NewEvent) else event,
)
async def test_wait_ends_when_another_process_took_over(
    event: NewEvent, reason: str, autojump_clock: MockClock
) -> None:
    """1. The attempt waits for a decision. 2. Another process ends the generation, or starts its next attempt."""
    log = MemoryBackend()
    async with open_run_log(log) as run_log:
        await run_log.write([proposed(G, asks=True)])

        async def wait() -> None:
            with pytest.raises(Fenced) as caught:
                await run_log.wait_until(lambda: not run_log.call("call_1").waits)
            assert caught.value.reason == reason

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            waiting = run_log.stats.waiting_tasks
            await append_elsewhere(log, event)
        assert (waiting, run_log.stats.waiting_tasks) == (1, 0)
        await wait()  # nor does it begin to wait again


async def test_start_of_the_own_attempt_does_not_end_the_wait(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_run_log(log) as first:
        await first.write([proposed(G, asks=True)])
        taken = event_types.generation_started(G, 2, "worker-2")
        appended = await first.store.append(Append(CONVERSATION, (taken,), writer=Writer(G, 2, 1)))
        second = RunLog(FencedWriter(first.store, CONVERSATION, G, 2, appended.last), found(), number=2)
        await second.catch_up(appended.last)
        await append_elsewhere(log, decided(G))
        await second.wait_until(lambda: not second.call("call_1").waits)
