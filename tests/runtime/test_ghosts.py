"""Ghosts: processes that live after they were taken for dead, and go on."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.memory import MemoryLog
from server.generation.run import Run
from server.workflows import Workflow
from tests.generation.owning import fields
from tests.generation.wrapped_log import Wrapped

from .playing import ended, events, kinds, play, started
from .world import app, process

T = TypeVar("T")


async def test_a_ghost_is_fenced_off_by_whoever_goes_on(autojump_clock: MockClock) -> None:
    """It lives after all and goes on writing: nothing of it comes behind the other's first event."""

    async def tick(run: Run) -> None:
        for _ in range(40):
            await run.token(f"{run.attempt}")
            await trio.sleep(0.5)

    log, registry = MemoryLog(), app(Workflow("w", tick))
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

    log, registry = MemoryLog(), app(Workflow("w", tick))
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
        outcomes = ghost.supervisor.metrics.meters["workflow"].runs
        assert [name for name, spread in outcomes.items() if spread.count] == ["cancelled"], "by somebody else"
    assert (found.status, found.result, found.text) == ("completed", 2, "2" * 60)
    assert kinds(log, run).count("generation.interrupted") == 1


class Cut(Wrapped):
    """A log that one process cannot reach while it is `cut` off."""

    cut = False

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.cut:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("cut off")
        return await call()
