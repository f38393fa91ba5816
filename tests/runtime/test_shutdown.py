"""A command that is under way when its process stops is answered with a refusal that tells the client to come
back.
"""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from tests.generations.unreliable_logs import Slow

from .runtime_process import process, start


async def test_command_of_a_stopping_process_gets_503(autojump_clock: MockClock) -> None:
    """A 503 with Retry-After, and no error in the log that somebody would have to look into."""
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
