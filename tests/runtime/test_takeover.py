"""Takeover of lost runs: which runs another process goes on with, how often, and which are ended instead."""

import pytest
import trio
from trio.testing import MockClock

from eventstore import OpenWriter
from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import MAX_ATTEMPTS
from server.generations.run_context import Run
from server.providers import UpstreamError
from server.runtime import orphan_recovery
from server.runtime.orphan_recovery import LOOK_SECONDS, SUSPECT_SECONDS
from server.workflows import Workflow, tool
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Slow

from .run_commands import At, ended, events, kinds, play, snapshot, started
from .runtime_process import app, cancel, of, process


async def _linger(run: Run) -> int:
    await run.token(f"{run.attempt}")
    await trio.sleep(1_000)
    return run.attempt


async def _at_last(run: Run) -> int:
    await run.token(f"{run.attempt}")
    if run.attempt == 1:
        await trio.sleep_forever()
    return run.attempt


LINGER = app(Workflow("w", _linger), Workflow("frail", _linger, on_crash="fail"))
AT_LAST = app(Workflow("w", _at_last))
UNKNOWN_SECONDS = 120.0


@pytest.fixture
def _workflow_known_within_two_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a process that knows the workflow two minutes to come, not an hour.

    It is looked for twice a second.
    """
    monkeypatch.setattr(orphan_recovery, "UNKNOWN_SECONDS", UNKNOWN_SECONDS)


def failure_code(log: MemoryBackend, run: At) -> str:
    """The error code that the run failed with."""
    end = fields(the_end(of(log, *run)))
    assert end["retryable"] is True
    return str(end["error"]["code"])


async def test_lost_workflow_is_taken_over(autojump_clock: MockClock) -> None:
    """After the suspicion time and not before; the log names the lost worker and the new one."""
    log = MemoryBackend()
    async with process(log.process(), registry=AT_LAST) as here:
        async with process(log.process(), registry=AT_LAST) as lost:
            run = await play(lost)
            await started(lost, run, text="1")
        await trio.sleep(SUSPECT_SECONDS - LOOK_SECONDS)
        assert (await snapshot(here, run)).attempt == 1
        found = await ended(here, run)
        assert (found.result, found.text, found.worker) == (2, "2", here.supervisor.worker)
        assert here.supervisor.metrics.taken_over == 1
        assert here.supervisor.metrics.lost_runs == 0
    assert kinds(log, run) == [
        *("generation.requested", "generation.started", "token"),
        *("generation.interrupted", "generation.started", "token", "result", "generation.completed"),
    ]
    (interrupted,) = events(log, run, "generation.interrupted")
    assert fields(interrupted) == {"attempt": 1, "reason": "worker_lost"}
    writer = log.streams[run[0]].writers[run[1]]
    assert (writer.epoch, writer.closed, writer.released) == (2, True, True)


async def test_handed_over_run_is_interrupted_once(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), registry=AT_LAST) as here:
        async with process(log.process(), registry=AT_LAST) as lost:
            run = await play(lost)
            await started(lost, run, text="1")
            await lost.supervisor.finish(0)
        await ended(here, run)
    (interrupted,) = events(log, run, "generation.interrupted")
    assert fields(interrupted) == {"attempt": 1, "reason": "server_stopped"}


async def test_run_with_on_crash_fail_is_ended(autojump_clock: MockClock) -> None:
    """By its workflow's declaration, by the request, or because it is a plain answer."""
    log = MemoryBackend()
    async with process(log.process(), registry=LINGER) as here:
        async with process(log.process(), FakeUpstream(("a",), FOREVER), registry=LINGER) as lost:
            runs = [
                await play(lost, workflow="frail"),
                await play(lost, on_crash="fail"),
                await play(lost, model="fake"),
            ]
            await trio.sleep(1)
        await trio.sleep(SUSPECT_SECONDS + 2 * LOOK_SECONDS)
        assert here.supervisor.metrics.taken_over == 0
        assert here.supervisor.metrics.lost_runs == 3
    assert [failure_code(log, run) for run in runs] == ["worker_lost"] * 3


async def test_plain_answer_with_on_crash_restart_is_requested_again(autojump_clock: MockClock) -> None:
    """Its text starts anew."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 100.0, ("b",))
    async with process(log.process(), upstream) as here:
        async with process(log.process(), upstream) as lost:
            run = await play(lost, model="fake", on_crash="restart")
            await started(lost, run, text="a")
        found = await ended(here, run)
    assert (found.status, found.text, found.attempt, upstream.opened) == ("completed", "ab", 2, 2)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("latency", [0.0, 0.7])
async def test_one_of_many_processes_takes_over(processes: int, latency: float, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        taken: list[int] = []

        async def living() -> None:
            view = Slow(log.process(), latency, only=("append", "open_writers"))
            async with process(view, registry=AT_LAST) as one:
                await stop.wait()
                taken.append(one.supervisor.metrics.taken_over)

        async with process(log.process(), registry=AT_LAST) as lost:
            run = await play(lost)
            await started(lost, run, text="1")
            for _ in range(processes):
                nursery.start_soon(living)
            await trio.sleep(1)
        await trio.sleep(30)
        stop.set()
    assert sorted(taken) == [*[0] * (processes - 1), 1]
    assert kinds(log, run).count("generation.started") == 2
    assert the_end(of(log, *run)).type == "generation.completed"


async def test_concurrent_takeovers_have_one_winner(autojump_clock: MockClock) -> None:
    """Two stores have found the run, and neither knows of the other."""
    log = MemoryBackend()
    async with process(log.process(), registry=AT_LAST) as lost:
        run = await play(lost)
        await started(lost, run, text="1")
        owner = lost.store.owner
    async with (
        process(Slow(log.process(), 1.0), registry=AT_LAST) as here,
        process(Slow(log.process(), 1.0), registry=AT_LAST) as there,
    ):
        found = await here.conversation(run[0])
        answers: list[bool] = []

        async def attempt(one: object) -> None:
            runtime = here if one is here else there
            writer = OpenWriter(run[0], run[1], 1, owner)
            answers.append(await runtime.scheduler.take_over(runtime.supervisor, writer, found))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, here)
            nursery.start_soon(attempt, there)
        assert sorted(answers) == [False, True]
        assert len(here.supervisor.runs) + len(there.supervisor.runs) == 1
        await ended(here, run)
    assert kinds(log, run).count("generation.started") == 2


async def test_run_that_ended_before_the_takeover_is_left(autojump_clock: MockClock) -> None:
    """It was cancelled between the look and the takeover; recovery goes on."""
    log = MemoryBackend()
    async with process(log.process(), registry=AT_LAST) as lost:
        run = await play(lost)
        await started(lost, run, text="1")
        owner = lost.store.owner
    async with process(log.process(), registry=AT_LAST) as here:
        found = await here.conversation(run[0])
        await cancel(here, *run)
        taken = await here.scheduler.take_over(here.supervisor, OpenWriter(run[0], run[1], 1, owner), found)
        assert taken is False
        assert here.supervisor.runs == {}
    assert the_end(of(log, *run)).type == "generation.cancelled"


async def test_run_that_kills_its_process_is_ended_after_max_attempts(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        async with process(log.process(), registry=LINGER) as lost:
            if attempt == 1:
                run = await play(lost)
            await started(lost, run, text=f"{attempt}", attempt=attempt)
    async with process(log.process(), registry=LINGER) as here:
        found = await ended(here, run)
        assert here.supervisor.metrics.lost_runs == 1
    assert found.attempt == MAX_ATTEMPTS
    assert failure_code(log, run) == "worker_lost"


@pytest.mark.usefixtures("_workflow_known_within_two_minutes")
async def test_run_of_an_unloaded_workflow_is_left_to_others(autojump_clock: MockClock) -> None:
    """As when half of the processes run a newer version of the app."""
    log = MemoryBackend()
    async with process(log.process()):
        async with process(log.process(), registry=AT_LAST) as lost:
            run = await play(lost)
            await started(lost, run, text="1")
        await trio.sleep(UNKNOWN_SECONDS - 10)
        async with process(log.process(), registry=AT_LAST) as here:
            assert (await ended(here, run)).result == 2


@pytest.mark.usefixtures("_workflow_known_within_two_minutes")
async def test_run_of_an_unloaded_workflow_is_ended_in_the_end(autojump_clock: MockClock) -> None:
    """A workflow, and a model's answer that needs a tool which no process has."""

    @tool
    async def refund() -> None:
        """Gives money back."""

    log, registry = MemoryBackend(), app(*AT_LAST.workflows.values(), refund)
    async with process(log.process(), FakeUpstream(FOREVER)):
        async with process(log.process(), FakeUpstream(FOREVER), registry=registry) as lost:
            runs = [await play(lost), await play(lost, model="fake", tools=("refund",))]
            await started(lost, runs[0], text="1")
        await trio.sleep(UNKNOWN_SECONDS - 5)
        assert [kinds(log, run)[-1] for run in runs] == ["token", "generation.started"]
        await trio.sleep(10)
    assert [failure_code(log, run) for run in runs] == ["worker_lost"] * 2


async def test_lost_queued_run_is_taken_over_in_order(autojump_clock: MockClock) -> None:
    """It waited behind another run: both go on in order, though the second is a plain answer."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with process(log.process(), upstream, registry=AT_LAST) as here:
        async with process(log.process(), upstream, registry=AT_LAST) as lost:
            first = await play(lost)
            await started(lost, first, text="1")
            second = await play(lost, first[0], model="fake", if_running="queue")
            assert (await snapshot(lost, second)).status == "queued"
        found = await ended(here, second)
        assert (await snapshot(here, first)).result == 2
    assert (found.status, found.text, found.attempt, upstream.opened) == ("completed", "a", 1, 1)
    (end, *_), (begun,) = events(log, first, "generation.completed"), events(log, second, "generation.started")
    assert end.position < begun.position
    (interrupted,) = events(log, second, "generation.interrupted")
    assert fields(interrupted) == {"attempt": 0, "reason": "worker_lost"}


async def test_queued_run_is_handed_over_without_an_event(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), FakeUpstream(("b",))) as here:
        async with process(log.process(), upstream) as lost:
            first = await play(lost, model="fake")
            second = await play(lost, first[0], model="fake", if_running="queue")
            await trio.sleep(1)
            await lost.supervisor.finish(0)
            assert kinds(log, second) == ["generation.requested"]
            meters = lost.supervisor.metrics.providers["fake"].runs
            assert (meters["failed"].count, meters["interrupted"].count) == (1, 1)
        found = await ended(here, second)
    assert failure_code(log, first) == "server_stopped"
    assert (found.status, found.text) == ("completed", "b")


async def test_second_attempt_can_fail_with_its_own_error(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> None:
        await run.token("x")
        if run.attempt == 1:
            await trio.sleep_forever()
        raise UpstreamError("upstream_cut", "cut")

    log, registry = MemoryBackend(), app(Workflow("w", work))
    async with process(log.process(), registry=registry) as here:
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, text="x")
        found = await ended(here, run)
    assert found.error == {"code": "upstream_cut", "message": "cut"}


async def test_cancel_during_a_takeover(autojump_clock: MockClock) -> None:
    """The client is told that nothing is open only once that is true, and not before the attempt has begun."""
    log, upstream = MemoryBackend(), FakeUpstream(FOREVER)
    async with process(log.process()) as other, process(Slow(log.process(), 6.0), upstream):
        async with process(log.process(), FakeUpstream(("a",), FOREVER)) as lost:
            run = await play(lost, model="fake", on_crash="restart")
            await started(lost, run, text="a")
        other.drain.begin(0)  # takes nothing over itself
        await started(other, run, text="", attempt=2)
        assert await cancel(other, *run)
        opened = upstream.opened
        assert upstream.open_now == 0
        await trio.sleep(60)
        assert (upstream.opened, upstream.open_now) == (opened, 0)
    assert the_end(of(log, *run)).type == "generation.cancelled"
