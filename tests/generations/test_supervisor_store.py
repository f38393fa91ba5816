"""Runs whose log is away, or is written by somebody else: each still ends once, and never speaks after that."""

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
from .owning import CONVERSATION, GENERATION, deltas, fields, owner, run_of, the_end, told, types
from .wrapped_log import Forgetful, Wrapped

PATIENCE = 5.0


@pytest.mark.parametrize("away_at", [0.0, 0.5, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("away_for", [PATIENCE + 1, 3 * PATIENCE, 1000.0])
async def test_a_log_that_is_away_for_too_long_fails_the_run(
    away_at: float, away_for: float, autojump_clock: MockClock
) -> None:
    """The end waits for the log to come back, however long that takes; the upstream is not kept for it.

    One that had not asked its upstream yet loses nothing by waiting, and one whose own last word was on its way by
    then has only to send it again.
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
async def test_a_log_that_comes_back_in_time_costs_nothing(away_at: float, autojump_clock: MockClock) -> None:
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


async def test_a_stop_does_not_wait_for_a_log_that_is_away(autojump_clock: MockClock) -> None:
    """The run is left open in the log, for another process to find as one whose worker is lost."""
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


async def test_a_stop_reaches_a_run_that_waits_for_the_log_to_end_in(autojump_clock: MockClock) -> None:
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
async def test_an_append_that_is_sent_again_happens_once(
    lost_at: float, times: int, autojump_clock: MockClock
) -> None:
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
async def test_one_that_was_ended_elsewhere_ends_without_a_word(epoch: int, autojump_clock: MockClock) -> None:
    """By a closed door, or by a later attempt that writes now. No watch here: its own append tells it."""
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


async def test_a_late_end_is_refused(autojump_clock: MockClock) -> None:
    """Whoever ends a generation second hears that somebody was faster."""
    log = MemoryBackend()
    async with owner(log.process()) as here, owner(log.process()) as there:
        await here.request()
        assert await here.cancel() is True
        assert await there.cancel() is False
        assert await here.cancel() is False
    the_end(told(log))


class Refusing(Wrapped):
    """A log that takes no terminal event of a stream: by an error that is the same the next time."""

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
async def test_an_end_that_the_store_refuses_is_not_tried_for_ever(
    error: StoreError, lines: list[dict[str, object]], autojump_clock: MockClock
) -> None:
    """Once by the run itself and once as its failure: then it is an orphan, and holds up nobody."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    view = Refusing(log.process(), error)
    async with owner(view) as here:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await run.done.wait()
        await trio.sleep(1_000)
        assert view.refused == 2
        assert [*here.supervisor.orphans] == [GENERATION]
    assert [line["event"] for line in lines].count("end not written") == 1
