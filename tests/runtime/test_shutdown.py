"""A command that is under way when its process goes down: its asker is told, as of any refusal that passes."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from tests.generations.wrapped_log import Slow

from .world import process, start


async def test_a_command_that_goes_down_with_its_process(autojump_clock: MockClock) -> None:
    """503 to come back with; no fault of ours that somebody would have to look for."""
    problems: list[Problem] = []

    async with trio.open_nursery() as askers:
        async with process(Slow(MemoryBackend().process(), 60.0)) as here:

            async def ask() -> None:
                with pytest.raises(Problem) as caught:
                    await start(here)
                problems.append(caught.value)

            askers.start_soon(ask)
            await wait_all_tasks_blocked()
    assert [(problem.status, problem.code) for problem in problems] == [(503, "unavailable")]
    assert problems[0].retry_after
