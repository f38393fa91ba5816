"""The log goes back under a run: its next append is no longer the next, and what it knows may not be in the log.

A run that may be followed by another attempt is; the log as it is now is all that the next one knows.
"""

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.owning import fields, the_end

from .playing import At, decide, ended, kinds, play, started
from .world import app, of, process


async def _ask_somebody(run: Run) -> str:
    return (await run.approve("go on?", expires=None)).decision


async def _talk(run: Run) -> int:
    for _ in range(10):
        await run.token("x")
        await trio.sleep(1)
    return run.attempt


REGISTRY = app(
    Workflow("asks", _ask_somebody),
    Workflow("asks_once", _ask_somebody, on_crash="fail"),
    Workflow("talks", _talk),
)


def go_back(log: MemoryBackend, run: At, events: int, appends: int) -> None:
    """The newest of them never were, and the writer stands where it stood before."""
    stream = log.streams[run[0]]
    del stream.events[-events:]
    stream.writers[run[1]].seq -= appends


@pytest.mark.parametrize("workflow", ["asks", "talks"])
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_workflow_goes_on_from_what_is_left(workflow: str, lost: int, autojump_clock: MockClock) -> None:
    """Its question is asked again, its words are said again; with its very beginning lost it is begun again."""
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        run = await play(here, workflow=workflow)
        await started(here, run, waiting=1 if workflow == "asks" else 0, text="" if workflow == "asks" else "xx")
        go_back(log, run, lost, lost)
        if workflow == "asks":
            await trio.sleep(10)
            assert kinds(log, run).count("tool.proposed") == 1
            await decide(here, run, "approved")
        found = await ended(here, run)
        await trio.sleep(5)
        assert here.supervisor.orphans == {}
    assert found.status == "completed"
    assert found.losses == 0
    the_end(of(log, *run))


@pytest.mark.parametrize("workflow", ["asks", "asks_once"])
async def test_one_that_waits_does_not_notice_a_promotion_that_loses_nothing(
    workflow: str, autojump_clock: MockClock
) -> None:
    """A synchronous standby took over. The run has heard nothing since it began to wait, and waits on."""
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        run = await play(here, workflow=workflow)
        await started(here, run, waiting=1)
        log.living[here.store.owner].history_changed("timeline 2 after 1")
        await trio.sleep(10)
        await decide(here, run, "approved")
        found = await ended(here, run)
    assert (found.status, found.result, found.attempt) == ("completed", "approved", 1)


async def test_a_plain_answer_is_ended(autojump_clock: MockClock) -> None:
    """Its upstream's words are lost."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 1.0, ("b",), 1.0, ("c",), 1.0)
    async with process(log.process(), upstream) as here:
        run = await play(here, model="fake")
        await trio.sleep(1.5)
        go_back(log, run, 1, 1)
        found = await ended(here, run)
    assert found.error is not None
    assert (found.error["code"], found.text) == ("store_unavailable", "a")
    assert upstream.open_now == 0


async def test_an_end_that_was_lost_is_made_good(autojump_clock: MockClock) -> None:
    """The run was over here, and in the log it is not: this process finds its own open writer."""
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        run = await play(here, workflow="asks")
        await started(here, run, waiting=1)
        await decide(here, run, "approved")
        await ended(here, run)
        go_back(log, run, 2, 1)
        log.streams[run[0]].writers[run[1]].closed = False
        found = await ended(here, run)
        assert (found.result, found.attempt) == ("approved", 2)


async def test_a_queue(autojump_clock: MockClock) -> None:
    """Whoever stood in front has ended, and then has not: its turn is waited for again."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with process(log.process(), upstream, registry=REGISTRY) as here:
        first = await play(here, workflow="talks")
        second = await play(here, first[0], model="fake", if_running="queue")
        await started(here, first, text="xxx")
        go_back(log, first, 1, 1)
        found = await ended(here, second)
        assert (await ended(here, first)).status == "completed"
    assert (found.status, found.text) == ("completed", "a")
    own = of(log, *second)
    assert fields(own[1])["attempt"] == 1
