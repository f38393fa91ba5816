"""Takeovers from a process that is taken for dead but lives, and goes on with the run."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FOREVER
from tests.generations.run_owner import fields
from tests.generations.unreliable_logs import Wrapped

from .run_commands import ended, events, kinds, play, snapshot, started
from .runtime_process import app, process, thought_dead

T = TypeVar("T")


async def test_old_process_cannot_append_after_the_takeover(autojump_clock: MockClock) -> None:
    """It goes on writing: no append of it is accepted after the first event of the new process."""

    async def tick(run: Run) -> None:
        for _ in range(40):
            await run.token(f"{run.attempt}")
            await trio.sleep(0.5)

    log, registry = MemoryBackend(), app(Workflow("w", tick))
    async with (
        process(log.process(), registry=registry) as old_process,
        process(log.process(), registry=registry) as here,
    ):
        run = await play(old_process)
        await trio.sleep(5)
        hear = log.living.pop(old_process.store.owner)
        await trio.sleep(5)
        log.living[old_process.store.owner] = hear
        found = await ended(here, run)
        assert old_process.supervisor.runs == {}
    assert found.text == "2" * 40
    deltas = "".join(fields(event)["delta"] for event in events(log, run, "token"))
    assert deltas == "1" * deltas.count("1") + "2" * 40


@pytest.mark.parametrize("way", ["stopped", "cut off"])
async def test_old_process_that_stops_does_not_interrupt_the_new_one(way: str, autojump_clock: MockClock) -> None:
    """It is stopped, or gives up on an unreachable log, after another process took over: that one goes on."""

    async def tick(run: Run) -> int:
        for number in range(60):
            await run.token(f"{run.attempt}")
            await trio.sleep(100 if (way, run.attempt, number) == ("stopped", 1, 3) else 1)
        return run.attempt

    log, registry = MemoryBackend(), app(Workflow("w", tick))
    view = DisconnectableBackend(log.process())
    async with (
        process(view, registry=registry, patience=3.0) as old_process,
        process(log.process(), registry=registry) as here,
    ):
        run = await play(old_process)
        await trio.sleep(5)
        hear = log.living.pop(old_process.store.owner)
        view.cut = way == "cut off"
        await started(here, run, text="2", attempt=2)
        log.living[old_process.store.owner] = hear
        if way == "stopped":
            await old_process.supervisor.finish(0)
        await trio.sleep(10)
        view.cut = False
        found = await ended(here, run)
        assert old_process.supervisor.runs == {}
        outcomes = old_process.supervisor.metrics.providers["workflow"].runs
        assert [name for name, spread in outcomes.items() if spread.count] == ["cancelled"], "by somebody else"
    assert (found.status, found.result, found.text) == ("completed", 2, "2" * 60)
    assert kinds(log, run).count("generation.interrupted") == 1


@pytest.mark.parametrize("waits", ["for a person", "in the queue"])
async def test_waiting_run_of_the_old_process_ends_with_the_takeover(
    waits: str, autojump_clock: MockClock
) -> None:
    """1. Its run waits. 2. It is taken for dead, and another process takes the run over. 3. It reads that.

    Nobody decides, and the generation in front does not end: neither would end the wait.
    """
    seconds = FOREVER if waits == "in the queue" else 0.0

    async def work(run: Run) -> None:
        await trio.sleep(seconds)
        if waits == "for a person":
            await run.approve("question", expires=None)

    log, registry = MemoryBackend(), app(Workflow("w", work, on_crash="restart"))
    async with (
        process(log.process(), registry=registry) as old_process,
        process(log.process(), registry=registry) as here,
    ):
        run = await play(here if waits == "in the queue" else old_process)
        if waits == "in the queue":
            run = await play(old_process, run[0], if_running="queue")
        await trio.sleep(5)
        assert run[1] in old_process.supervisor.runs
        with thought_dead(log, old_process):
            await trio.sleep(10)
            assert run[1] in here.supervisor.runs
        await trio.sleep(5)
        assert old_process.supervisor.runs == {}
        assert run[1] in here.supervisor.runs
        assert not (await snapshot(here, run)).ended


class DisconnectableBackend(Wrapped):
    """A log that one process cannot reach while `cut` is set."""

    cut = False

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.cut:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("cut off")
        return await call()
