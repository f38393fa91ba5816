"""Workflows of a process that stops are handed over, and counted by how they ended."""

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Slow

from .run_commands import ended, kinds, play, snapshot
from .runtime_process import app, of, process


async def test_stopping_process_hands_its_workflows_over(autojump_clock: MockClock) -> None:
    """Except workflows that are declared to fail with their process, and one that has just ended."""

    async def work(run: Run) -> int:
        if run.attempt == 1:
            await trio.sleep_forever()
        return run.attempt

    log = MemoryBackend()
    registry = app(Workflow("w", work), Workflow("frail", work, on_crash="fail"))
    async with process(log.process(), registry=registry) as there:
        async with process(log.process(), FakeUpstream(FOREVER), registry=registry) as here:
            runs = [await play(here), await play(here, workflow="frail"), await play(here, model="fake")]
            await trio.sleep(1)
            await here.supervisor.finish(1)
            assert (await snapshot(there, runs[0])).status == "queued"
            assert kinds(log, runs[0])[-1] == "generation.interrupted"
            outcomes = here.supervisor.metrics.providers["workflow"].runs
            assert {name: spread.count for name, spread in outcomes.items() if spread.count} == {
                "interrupted": 1,
                "failed": 1,
            }
        await ended(there, runs[0])
        assert (await snapshot(there, runs[0])).result == 2
        assert there.supervisor.metrics.taken_over == 1
        for run in runs[1:]:
            assert fields(the_end(of(log, *run)))["error"]["code"] == "server_stopped"
    interrupted = [event for event in of(log, *runs[0]) if event.type == "generation.interrupted"]
    assert [fields(event) for event in interrupted] == [{"attempt": 1, "reason": "server_stopped"}]


@pytest.mark.parametrize("moment", [number / 8 for number in range(24)])
async def test_workflow_ending_during_the_stop_is_counted_once(moment: float, autojump_clock: MockClock) -> None:
    async def work(run: Run) -> None:
        await run.token("a")

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process(), registry=registry) as there:
        async with process(Slow(log.process(), 1.0), registry=registry) as here:
            run = await play(here)
            await trio.sleep(moment)
            await here.supervisor.finish(0)
            last = kinds(log, run)[-1]
            (counted,) = [
                name for name, spread in here.supervisor.metrics.providers["workflow"].runs.items() if spread.count
            ]
            assert counted == {"generation.completed": "completed"}.get(last, "interrupted")
        await ended(there, run)
    the_end(of(log, *run))
