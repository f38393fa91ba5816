"""Runs whose log is unavailable or written by another process: each ends once, and writes nothing after its
end.
"""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, Erased, NewEvent, StoreError, Writer
from eventstore.backend import Backend, Outcome
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.event_types import TERMINAL
from server.generations.executors import FIRST_EPOCH

from .fake_upstream import FOREVER, FakeUpstream
from .run_owner import CONVERSATION, GENERATION, deltas, fields, owner, run_of, the_end, told, types
from .unreliable_logs import Forgetful, Wrapped

PATIENCE = 5.0


@pytest.mark.parametrize("away_at", [0.0, 0.5, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("away_for", [PATIENCE + 1, 3 * PATIENCE, 1000.0])
async def test_long_outage_fails_a_streaming_run(
    away_at: float, away_for: float, autojump_clock: MockClock
) -> None:
    """The terminal event waits for the log.

    The upstream is closed meanwhile. A run that has not asked its upstream yet only waits, and one whose
    terminal event was on its way sends it again.
    """
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",), 1.0, ("b",), 1.0, ("c",), 1.0)
    async with owner(log.process(), patience=PATIENCE) as here:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await trio.sleep(away_at)
        log.available = False
        await trio.sleep(away_for)
        assert upstream.open_now == 0
        assert not run.done.is_set()
        log.available = True
        await run.done.wait()
        await trio.sleep(60)
    end = the_end(told(log))
    if away_at in (0.0, 3.5):
        assert (end.type, run.stats.outcome) == ("generation.completed", "completed")
        assert deltas(log) == ["a", "b", "c"]
    else:
        assert (fields(end)["error"]["code"], run.stats.outcome) == ("store_unavailable", "failed")
        assert fields(end)["retryable"] is True
    # What was appended is whole; what the log did not take is not made up for.
    assert "abc".startswith("".join(deltas(log)))


@pytest.mark.parametrize("away_at", [0.0, 0.5, 1.5, 2.5, 3.5])
async def test_short_outage_loses_nothing(away_at: float, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",), 1.0, ("b",), 1.0, ("c",), 1.0)
    async with owner(log.process(), patience=PATIENCE) as here:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await trio.sleep(away_at)
        log.available = False
        await trio.sleep(PATIENCE - 1)
        log.available = True
        await run.done.wait()
    assert deltas(log) == ["a", "b", "c"]
    assert the_end(told(log)).type == "generation.completed"


async def test_stop_does_not_wait_for_the_log(autojump_clock: MockClock) -> None:
    """The run stays open in the log, for another process to recover."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with owner(log.process(), patience=PATIENCE) as here:
        await here.request()
        here.supervisor.start(run_of(upstream))
        await trio.sleep(1)
        log.available = False
        with trio.fail_after(PATIENCE + 0.1):
            await here.supervisor.finish(0)
        assert upstream.open_now == 0
        assert here.supervisor.runs == {}
        log.available = True
        await trio.sleep(60)
    assert types(log) == ["generation.started", "token"]


async def test_stop_ends_a_run_that_waits_to_write_its_end(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 1.0, ("b",))
    async with owner(log.process(), patience=PATIENCE) as here:
        await here.request()
        here.supervisor.start(run_of(upstream))
        await trio.sleep(0.5)
        log.available = False
        await trio.sleep(100)
        assert here.supervisor.runs
        with trio.fail_after(2 * PATIENCE + 1):
            await here.supervisor.finish(0)
        assert here.supervisor.runs == {}


@pytest.mark.parametrize("lost_at", [0.5, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("times", [1, 4])
async def test_resent_append_happens_once(lost_at: float, times: int, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",), 1.0, ("b",), 1.0, ("c",), 1.0)
    view = Forgetful(log.process())
    async with owner(view) as here:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await trio.sleep(lost_at)
        view.losing = times
        await run.done.wait()
    assert types(log) == ["generation.started", *["token"] * 3, "generation.completed"]


@pytest.mark.parametrize("epoch", [FIRST_EPOCH, FIRST_EPOCH + 1])
async def test_run_ended_by_another_process_writes_nothing(epoch: int, autojump_clock: MockClock) -> None:
    """It was closed, or a later attempt writes now. There is no watch task here: its own append is refused."""
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",), 10.0, ("b",), FOREVER)
    async with owner(log.process(), watch=False) as here, owner(log.process()) as there:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await trio.sleep(5)
        if epoch == FIRST_EPOCH:
            assert await there.cancel()
        else:
            taken: tuple[NewEvent, ...] = (event_types.generation_started("gen_1", 2, "worker-2"),)
            await there.store.append(Append("conv_1", taken, writer=Writer("gen_1", epoch, 1)))
        before = told(log)
        with trio.fail_after(7):
            await run.done.wait()
        assert upstream.open_now == 0
        await trio.sleep(60)
    assert told(log) == before
    assert deltas(log) == ["a"]


async def test_second_cancel_is_refused(autojump_clock: MockClock) -> None:
    """Whoever ends a generation second hears that somebody was faster."""
    log = MemoryBackend()
    async with owner(log.process()) as here, owner(log.process()) as there:
        await here.request()
        assert await here.cancel() is True
        assert await there.cancel() is False
        assert await here.cancel() is False
    the_end(told(log))


class RefusingBackend(Wrapped):
    """A log that refuses every terminal event of a stream."""

    def __init__(self, inside: Backend, error: StoreError) -> None:
        super().__init__(inside)
        self._error = error
        self.refused = 0

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        if any(event.type in TERMINAL for append in batch for event in append.events):
            self.refused += 1
            return [self._error for _ in batch]
        return await super().append(batch)


@pytest.mark.parametrize(
    "error", [Erased(CONVERSATION), StoreError("refused")], ids=lambda error: type(error).__name__
)
async def test_refused_terminal_event_is_tried_twice(
    error: StoreError, lines: list[dict[str, object]], autojump_clock: MockClock
) -> None:
    """Once as it is and once as a failure: then the run is an orphan and blocks nothing."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    view = RefusingBackend(log.process(), error)
    async with owner(view) as here:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await run.done.wait()
        await trio.sleep(1_000)
        assert view.refused == 2
        assert [*here.supervisor.orphans] == [GENERATION]
    assert [line["event"] for line in lines].count("end not written") == 1
