"""Ghosts: processes that live after they were taken for dead, and go on."""

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
from tests.generations.owning import fields
from tests.generations.wrapped_log import Wrapped

from .playing import ended, events, kinds, play, snapshot, started
from .world import app, process, thought_dead

T = TypeVar("T")


async def test_a_ghost_is_fenced_off_by_whoever_goes_on(autojump_clock: MockClock) -> None:
    """It lives after all and goes on writing: nothing of it comes behind the other's first event."""

    async def tick(run: Run) -> None:
        for _ in range(40):
            await run.token(f"{run.attempt}")
            await trio.sleep(0.5)

    log, registry = MemoryBackend(), app(Workflow("w", tick))
    async with (
        process(log.process(), registry=registry) as ghost,
        process(log.process(), registry=registry) as here,
    ):
        run = await play(ghost)
        await trio.sleep(5)
        hear = log.living.pop(ghost.store.owner)
        await trio.sleep(5)
        log.living[ghost.store.owner] = hear
        found = await ended(here, run)
        assert ghost.supervisor.runs == {}
    assert found.text == "2" * 40
    deltas = "".join(fields(event)["delta"] for event in events(log, run, "token"))
    assert deltas == "1" * deltas.count("1") + "2" * 40


@pytest.mark.parametrize("way", ["stopped", "cut off"])
async def test_a_ghost_that_goes_takes_nothing_back(way: str, autojump_clock: MockClock) -> None:
    """It is stopped, or gives up waiting for the log, after another process has gone on: that one goes on."""

    async def tick(run: Run) -> int:
        for number in range(60):
            await run.token(f"{run.attempt}")
            await trio.sleep(100 if (way, run.attempt, number) == ("stopped", 1, 3) else 1)
        return run.attempt

    log, registry = MemoryBackend(), app(Workflow("w", tick))
    view = Cut(log.process())
    async with (
        process(view, registry=registry, patience=3.0) as ghost,
        process(log.process(), registry=registry) as here,
    ):
        run = await play(ghost)
        await trio.sleep(5)
        hear = log.living.pop(ghost.store.owner)
        view.cut = way == "cut off"
        await started(here, run, text="2", attempt=2)
        log.living[ghost.store.owner] = hear
        if way == "stopped":
            await ghost.supervisor.finish(0)
        await trio.sleep(10)
        view.cut = False
        found = await ended(here, run)
        assert ghost.supervisor.runs == {}
        outcomes = ghost.supervisor.metrics.providers["workflow"].runs
        assert [name for name, spread in outcomes.items() if spread.count] == ["cancelled"], "by somebody else"
    assert (found.status, found.result, found.text) == ("completed", 2, "2" * 60)
    assert kinds(log, run).count("generation.interrupted") == 1


@pytest.mark.parametrize("waits", ["for a person", "in the queue"])
async def test_a_ghost_that_waits_ends_with_the_takeover(waits: str, autojump_clock: MockClock) -> None:
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
        process(log.process(), registry=registry) as ghost,
        process(log.process(), registry=registry) as here,
    ):
        run = await play(here if waits == "in the queue" else ghost)
        if waits == "in the queue":
            run = await play(ghost, run[0], if_running="queue")
        await trio.sleep(5)
        assert run[1] in ghost.supervisor.runs
        with thought_dead(log, ghost):
            await trio.sleep(10)
            assert run[1] in here.supervisor.runs
        await trio.sleep(5)
        assert ghost.supervisor.runs == {}
        assert run[1] in here.supervisor.runs
        assert not (await snapshot(here, run)).ended


class Cut(Wrapped):
    """A log that one process cannot reach while it is `cut` off."""

    cut = False

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.cut:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("cut off")
        return await call()
