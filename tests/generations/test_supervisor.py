"""Runs of a supervisor that nobody disturbs: completion, upstream failure, crash, and repeated starts."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, StoreError
from eventstore.backend import Backend, Outcome
from eventstore.memory_backend import MemoryBackend
from server.providers import Finish, UpstreamError

from .fake_upstream import FOREVER, FakeUpstream, Step
from .run_owner import deltas, fields, owner, run_of, the_end, told, types
from .unreliable_logs import Slow, Wrapped


async def run_to_end(log: MemoryBackend, upstream: FakeUpstream, view: Backend | None = None) -> None:
    """Requests a generation, runs it, and waits for its end."""
    async with owner(view or log.process()) as here:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await run.done.wait()
        assert here.supervisor.runs == {}
    assert upstream.open_now == 0


async def test_run_completes(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(1.5, ("a", "", "b"), ("c",), finish=Finish("length", {"x": 1}))
    await run_to_end(log, upstream)
    assert types(log) == ["generation.started", *["token"] * 4, "generation.completed"]
    assert deltas(log) == ["a", "", "b", "c"]
    assert fields(told(log)[1]) == {"attempt": 1, "worker": "worker-1"}
    assert fields(told(log)[-1]) == {"finish_reason": "length", "usage": {"x": 1}, "ttft_ms": 1500}


async def test_answer_without_tokens_completes(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    await run_to_end(log, FakeUpstream(finish=Finish("stop", None)))
    assert types(log) == ["generation.started", "generation.completed"]
    assert fields(told(log)[-1]) == {"finish_reason": "stop", "usage": {}, "ttft_ms": None}


@pytest.mark.parametrize("before", [(), (("a",), ("b", "c"))])
async def test_answer_without_a_finish_reason_has_failed(
    before: tuple[Step, ...], autojump_clock: MockClock
) -> None:
    """An adapter with a bug must not pass a truncated answer off as complete."""
    log = MemoryBackend()
    await run_to_end(log, FakeUpstream(*before, finish=None))
    assert deltas(log) == list("abc" if before else "")
    end = the_end(told(log))
    assert (end.type, fields(end)["error"]["code"]) == ("generation.failed", "upstream_cut")
    assert fields(end)["retryable"] is True


async def test_terminal_event_closes_the_writer(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    await run_to_end(log, FakeUpstream(("a",)))
    writer = log.streams["conv_1"].writers["gen_1"]
    assert (writer.closed, writer.released, writer.seq) == (True, True, 4)


@pytest.mark.parametrize("before", [(), (("a",), ("b", "c"))])
@pytest.mark.parametrize("retryable", [True, False])
async def test_upstream_error_fails_the_run(
    before: tuple[Step, ...], retryable: bool, autojump_clock: MockClock
) -> None:
    """With the code of the upstream error, after all tokens that came before it."""
    log = MemoryBackend()
    error = UpstreamError("upstream_cut", "The line went dead.", retryable=retryable)
    await run_to_end(log, FakeUpstream(*before, error))
    assert deltas(log) == list("abc" if before else "")
    assert types(log)[-1] == "generation.failed"
    assert fields(the_end(told(log))) == {
        "error": {"code": "upstream_cut", "message": "The line went dead."},
        "retryable": retryable,
    }


@pytest.mark.parametrize("before", [(), (("a",),)])
async def test_crash_fails_the_run_without_details(
    before: tuple[Step, ...], lines: list[dict[str, object]], autojump_clock: MockClock
) -> None:
    """The client sees `internal_error`; the server's log has the traceback."""
    log = MemoryBackend()
    await run_to_end(log, FakeUpstream(*before, ValueError("hunter2")))
    end = the_end(told(log))
    assert end.type == "generation.failed"
    assert fields(end)["error"]["code"] == "internal_error"
    assert fields(end)["retryable"] is True
    assert "hunter2" not in end.data
    assert "ValueError" not in end.data
    (line,) = [line for line in lines if line["event"] == "run crashed"]
    assert (line["generation"], line["exc_info"]) == ("gen_1", True)


async def test_crash_leaves_other_runs_alone(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with owner(log.process()) as here:
        await here.request("gen_1", "conv_1")
        await here.request("gen_2", "conv_2")
        good = run_of(FakeUpstream(5.0, ("a",)), "gen_2", "conv_2")
        here.supervisor.start(run_of(FakeUpstream(ValueError("broken"))))
        here.supervisor.start(good)
        await good.done.wait()
    assert the_end(told(log, "gen_2", "conv_2")).type == "generation.completed"


class OpenAnswersBackend(Wrapped):
    """Notes how many answers are open when each append arrives."""

    def __init__(self, inside: Backend, upstream: FakeUpstream) -> None:
        super().__init__(inside)
        self._upstream = upstream
        self.noted: list[tuple[str, int]] = []

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        self.noted += [(append.events[-1].type, self._upstream.open_now) for append in batch]
        return await super().append(batch)


@pytest.mark.parametrize("last", [("b",), UpstreamError("upstream_cut", "cut"), ValueError("broken")])
async def test_upstream_is_closed_before_the_terminal_event(last: Step, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), last, closing=2.0)
    view = OpenAnswersBackend(log.process(), upstream)
    await run_to_end(log, upstream, view)
    open_at = dict(view.noted)
    assert open_at["generation.started"] == 0
    assert open_at["token"] == 1
    assert open_at[the_end(told(log)).type] == 0


async def test_upstream_is_not_read_ahead_of_the_commit(autojump_clock: MockClock) -> None:
    """A slow log slows the upstream: ten batches that are ready at once take ten round trips."""
    log, upstream = MemoryBackend(), FakeUpstream(*[("a", "b")] * 10)
    start = trio.current_time()
    await run_to_end(log, upstream, Slow(log.process(), 1.0))
    # The request, its start, ten batches, the end.
    assert trio.current_time() - start == pytest.approx(13.0)
    times = [event.at for event in told(log) if event.type == "token"]
    assert [(after - before).seconds for before, after in zip(times, times[2:], strict=False)][::2] == [1] * 9


async def test_run_started_twice_runs_once(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",))
    async with owner(log.process()) as here:
        await here.request()
        first, second = run_of(upstream), run_of(upstream)
        here.supervisor.start(first)
        here.supervisor.start(second)
        here.supervisor.start(first)
        await first.done.wait()
        assert not second.done.is_set()
    assert upstream.opened == 1
    assert types(log) == ["generation.started", "token", "generation.completed"]


async def test_run_started_after_its_end_appends_nothing(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with owner(log.process()) as here:
        await here.request()
        for _ in range(2):
            run = run_of(upstream)
            here.supervisor.start(run)
            await run.done.wait()
    assert upstream.opened == 1
    assert types(log) == ["generation.started", "token", "generation.completed"]


async def test_stop_of_an_unknown_run_returns_false(autojump_clock: MockClock) -> None:
    async with owner(MemoryBackend().process()) as here:
        assert await here.supervisor.stop("gen_nobody") is False


async def test_stop_appends_nothing(autojump_clock: MockClock) -> None:
    """It is for runs whose terminal event another process has already written."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER, closing=1.0)
    async with owner(log.process()) as here:
        await here.request()
        here.supervisor.start(run_of(upstream))
        await trio.sleep(1)
        assert await here.supervisor.stop("gen_1") is True
        assert upstream.open_now == 0
        await trio.sleep(100)
    assert types(log) == ["generation.started", "token"]
