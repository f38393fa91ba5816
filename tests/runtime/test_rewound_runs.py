"""A failover rewinds the log under a run: events that the run knows may be gone, and its next append does not
follow.

A run that may have another attempt gets one, and that attempt knows only what the log holds now.
"""

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end

from .run_commands import At, decide, ended, kinds, play, started
from .runtime_process import app, of, process


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


def rewind(log: MemoryBackend, run: At, events: int, appends: int) -> None:
    """Removes the newest events as if never appended, and sets the writer back to where it stood before."""
    stream = log.streams[run[0]]
    del stream.events[-events:]
    stream.writers[run[1]].seq -= appends


@pytest.mark.parametrize("workflow", ["asks", "talks"])
@pytest.mark.parametrize("lost", [1, 2])
async def test_workflow_continues_from_the_rewound_log(
    workflow: str, lost: int, autojump_clock: MockClock
) -> None:
    """Its question is asked again and its text written again; with its beginning lost it begins again."""
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        run = await play(here, workflow=workflow)
        await started(here, run, waiting=1 if workflow == "asks" else 0, text="" if workflow == "asks" else "xx")
        rewind(log, run, lost, lost)
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
async def test_waiting_run_does_not_notice_a_lossless_promotion(workflow: str, autojump_clock: MockClock) -> None:
    """A synchronous standby took over; the run waits on."""
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        run = await play(here, workflow=workflow)
        await started(here, run, waiting=1)
        log.living[here.store.owner].history_changed("timeline 2 after 1")
        await trio.sleep(10)
        await decide(here, run, "approved")
        found = await ended(here, run)
    assert (found.status, found.result, found.attempt) == ("completed", "approved", 1)


async def test_plain_answer_is_ended(autojump_clock: MockClock) -> None:
    """The text of its upstream is lost."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 1.0, ("b",), 1.0, ("c",), 1.0)
    async with process(log.process(), upstream) as here:
        run = await play(here, model="fake")
        await trio.sleep(1.5)
        rewind(log, run, 1, 1)
        found = await ended(here, run)
    assert found.error is not None
    assert (found.error["code"], found.text) == ("store_unavailable", "a")
    assert upstream.open_now == 0


async def test_lost_end_is_written_again(autojump_clock: MockClock) -> None:
    """The process saw the run end, the log does not hold it: the process finds its own open writer."""
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        run = await play(here, workflow="asks")
        await started(here, run, waiting=1)
        await decide(here, run, "approved")
        await ended(here, run)
        rewind(log, run, 2, 1)
        log.streams[run[0]].writers[run[1]].closed = False
        found = await ended(here, run)
        assert (found.result, found.attempt) == ("approved", 2)


async def test_queued_run_waits_again(autojump_clock: MockClock) -> None:
    """The generation in front had ended, and now has not."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with process(log.process(), upstream, registry=REGISTRY) as here:
        first = await play(here, workflow="talks")
        second = await play(here, first[0], model="fake", if_running="queue")
        await started(here, first, text="xxx")
        rewind(log, first, 1, 1)
        found = await ended(here, second)
        assert (await ended(here, first)).status == "completed"
    assert (found.status, found.text) == ("completed", "a")
    own = of(log, *second)
    assert fields(own[1])["attempt"] == 1
