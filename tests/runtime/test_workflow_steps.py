"""Steps of a workflow: paid for once, whatever becomes of the process."""

import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory import MemoryLog
from server.generation.run import Run
from server.workflows import Workflow

from .playing import Loud, ended, kinds, outcome, play, snapshot, started
from .world import app, process


async def test_a_step_is_paid_for_once(autojump_clock: MockClock) -> None:
    """One name several times, over an attempt that was lost."""
    done: list[str] = []

    async def slow() -> str:
        await trio.sleep(1)
        done.append("slow")
        return "s"

    async def quick() -> list[int]:
        done.append("quick")
        return [1]

    async def work(run: Run) -> Any:
        first = await run.step("x", slow)
        second = await run.step("x", quick)
        third = await run.step("y", slow)
        await run.token(f"attempt {run.attempt}")
        if run.attempt == 1:
            await trio.sleep_forever()
        return [first, second, third]

    log = MemoryLog()
    registry = app(Workflow("w", work))
    async with process(log.process(), registry=registry):
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, text="attempt 1")
        async with process(log.process(), registry=registry) as here:
            await ended(here, run)
            found = await snapshot(here, run)
    assert done == ["slow", "quick", "slow"]
    assert found.result == ["s", [1], "s"]
    assert (found.attempt, found.text) == (2, "attempt 2"), "it speaks anew"
    assert kinds(log, run).count("step.finished") == 3


async def test_a_plain_function_may_block() -> None:
    """It is run in a thread, so others go on; a plain one that returns an awaitable is waited for here."""
    blocked = threading.Event()

    def plain() -> int:
        blocked.wait(5)
        return threading.get_ident()

    async def slow() -> int:
        return threading.get_ident()

    async def work(run: Run) -> list[int]:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def other() -> None:
                await run.token("meanwhile")
                blocked.set()

            values = [await run.step("plain", plain)]
        values.append(await run.step("mixed", lambda: slow()))
        return values

    log = MemoryLog()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        found = await ended(here, run)
        assert found.error is None, found.error
        plainly, mixed = found.result
    assert plainly != threading.get_ident() == mixed


async def test_a_step_that_raises_is_not_recorded(autojump_clock: MockClock) -> None:
    tries: list[int] = []

    async def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise Loud("once")
        return len(tries)

    async def work(run: Run) -> int:
        with pytest.raises(Loud):
            await run.step("x", flaky)
        value: int = await run.step("x", flaky)
        return value

    log = MemoryLog()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await ended(here, run)
        assert (await snapshot(here, run)).result == 2
    assert kinds(log, run).count("step.finished") == 1


@pytest.mark.parametrize("name", ["", "x" * 101])
async def test_a_steps_name_has_its_bounds(name: str, autojump_clock: MockClock) -> None:
    async def work(run: Run) -> None:
        await run.step(name, dict)

    assert "1 to 100 characters" in (await outcome(work))["error"]["message"]


async def test_a_steps_result_has_to_be_json(autojump_clock: MockClock) -> None:
    async def thing() -> object:
        return object()

    async def work(run: Run) -> None:
        await run.step("x", thing)

    assert (await outcome(work))["error"]["code"] == "workflow_failed"
