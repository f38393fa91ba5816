"""The metrics and the log line of one run in virtual time: first token, gaps, outcomes, repaired characters."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import trio
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.executors import Attempt
from server.generations.run.run_stats import RunStats
from server.observability import Metrics
from server.providers import Finish, UpstreamError
from tests.generations.fake_upstream import FOREVER, FakeUpstream, Step
from tests.generations.run_owner import CONVERSATION, GENERATION, Owner, owner, run_of

Lines = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def lines() -> Iterator[Lines]:
    with capture_logs([merge_contextvars]) as lines:
        yield lines


def ended_line(lines: Lines) -> dict[str, Any]:
    """The one log line of a run that has ended."""
    (line,) = [line for line in lines if line["event"] == "run finished"]
    return dict(line)


async def run_to_end(upstream: FakeUpstream, log: MemoryBackend | None = None) -> Metrics:
    """Runs one run to its end."""
    async with owner((log or MemoryBackend()).process()) as here:
        run = await start_run(here, upstream)
        await run.done.wait()
        return here.supervisor.metrics


async def start_run(here: Owner, upstream: FakeUpstream) -> Attempt:
    """Requests and starts a run."""
    await here.request()
    run = run_of(upstream, model="demo")
    here.supervisor.start(run)
    return run


async def test_first_token_and_gaps(lines: Lines, autojump_clock: MockClock) -> None:
    """Tokens that arrive together are one arrival."""
    metrics = await run_to_end(FakeUpstream(2.0, ("a",), 0.3, ("b", "c"), 4.0, ("d",)))
    meter = metrics.providers["demo"]
    assert [meter.first_token.count, meter.between_tokens.count] == [1, 2]
    assert meter.first_token.total == pytest.approx(2.0, abs=0.01)
    assert meter.between_tokens.total == pytest.approx(4.3, abs=0.01)
    assert dict(meter.between_tokens.buckets())["0.5"] == 1
    assert dict(meter.between_tokens.buckets())["5.0"] == 2
    assert meter.tokens == 4
    line = ended_line(lines)
    assert line.pop("tokens_per_second") == pytest.approx(4 / 4.3, abs=0.1)
    assert line.pop("ttft_ms") == pytest.approx(2000, abs=10)
    assert line.pop("longest_gap_ms") == pytest.approx(4000, abs=10)
    assert line.pop("duration_ms") == pytest.approx(6300, abs=20)
    assert line == {
        "event": "run finished",
        "log_level": "info",
        "logger_name": "supervisor",
        "generation": GENERATION,
        "conversation": CONVERSATION,
        "model": "demo",
        "outcome": "completed",
        "finish_reason": "stop",
        "tokens": 4,
        "input_tokens": 1,
        "output_tokens": 2,
    }


async def test_run_without_tokens(lines: Lines, autojump_clock: MockClock) -> None:
    metrics = await run_to_end(FakeUpstream(1.0))
    assert metrics.providers["demo"].first_token.count == 0
    assert metrics.providers["demo"].runs["completed"].count == 1
    assert not {"ttft_ms", "longest_gap_ms", "tokens_per_second"} & ended_line(lines).keys()


@pytest.mark.parametrize("before", [(), (("a",), ("b",))])
async def test_upstream_failure_is_counted_by_code(
    before: tuple[Step, ...], lines: Lines, autojump_clock: MockClock
) -> None:
    error = UpstreamError("upstream_cut", "The line went dead, said hunter2.")
    metrics = await run_to_end(FakeUpstream(*before, error))
    assert metrics.failures.counts["demo", "upstream_cut"] == 1
    assert sum(metrics.failures.counts.values()) == 1
    assert metrics.providers["demo"].runs["failed"].count == 1
    assert metrics.providers["demo"].tokens == len(before)
    line = ended_line(lines)
    assert (line["outcome"], line["failure"], line["log_level"]) == ("failed", "upstream_cut", "warning")
    assert "hunter2" not in str(lines), "the provider's words may hold anything"


async def test_crash_is_an_internal_error(lines: Lines, autojump_clock: MockClock) -> None:
    metrics = await run_to_end(FakeUpstream(("a",), ValueError("x")))
    assert metrics.failures.counts["demo", "internal_error"] == 1
    assert ended_line(lines)["failure"] == "internal_error"


async def test_cancelled_run(lines: Lines, autojump_clock: MockClock) -> None:
    async with owner(MemoryBackend().process()) as here:
        run = await start_run(here, FakeUpstream(("a",), FOREVER))
        await trio.sleep(1)
        assert await here.cancel()
        await run.done.wait()
        metrics = here.supervisor.metrics
    assert metrics.providers["demo"].runs["cancelled"].count == 1
    assert sum(metrics.failures.counts.values()) == 0
    assert ended_line(lines)["outcome"] == "cancelled"


async def test_run_of_a_stopped_server(lines: Lines, autojump_clock: MockClock) -> None:
    async with owner(MemoryBackend().process()) as here:
        await start_run(here, FakeUpstream(("a",), FOREVER))
        await here.supervisor.finish(1.0)
        metrics = here.supervisor.metrics
    assert metrics.failures.counts["demo", "server_stopped"] == 1
    assert ended_line(lines)["failure"] == "server_stopped"


async def test_handed_over_run(lines: Lines, autojump_clock: MockClock) -> None:
    """It is no failure: another process goes on with it."""
    async with owner(MemoryBackend().process()) as here:
        await here.request()
        run = run_of(FakeUpstream(("a",), FOREVER), model="demo", on_crash="restart")
        here.supervisor.start(run)
        await here.supervisor.finish(1.0)
        metrics = here.supervisor.metrics
    assert {name: spread.count for name, spread in metrics.providers["demo"].runs.items()} == {
        "completed": 0,
        "failed": 0,
        "cancelled": 0,
        "interrupted": 1,
    }
    assert sum(metrics.failures.counts.values()) == 0
    line = ended_line(lines)
    assert (line["outcome"], line["log_level"], line["tokens"]) == ("interrupted", "info", 1)
    assert "failure" not in line


async def test_wait_between_two_answers_is_no_gap(autojump_clock: MockClock) -> None:
    """Waiting for a person or a tool: only the upstreams' own time counts."""
    stats = RunStats()
    stats.run_started(10.0)
    for now in (10.0, 1_000.0):
        stats.upstream_asked(now)
        stats.tokens_arrived(now + 2.0)
        stats.tokens_arrived(now + 5.0)
    assert (stats.ttft_ms, stats.longest_gap) == (2_000, 3.0)
    assert (stats.meter.first_token.count, stats.meter.between_tokens.count) == (1, 3)
    assert stats.meter.between_tokens.total == pytest.approx(3 + 2 + 3)


def test_usage_sums_all_answers() -> None:
    """Also those of earlier attempts."""
    stats = RunStats()
    stats.add_usage({"input_tokens": 10, "output_tokens": 1})
    stats.add_usage(None)
    stats.answer_ended(Finish("stop", {"input_tokens": 1, "reasoning_tokens": 5}), 0)
    stats.answer_ended(Finish("stop", None), 2)
    stats.answer_ended(None, 1)
    assert stats.usage == {"input_tokens": 11, "output_tokens": 1, "reasoning_tokens": 5}
    assert (stats.repaired, stats.meter.repaired) == (3, 3)


async def test_long_database_outage(lines: Lines, autojump_clock: MockClock) -> None:
    """The run fails with its own code, and the outage counts as nobody's gap."""
    log = MemoryBackend()
    async with owner(log.process(), patience=3.0) as here:
        run = await start_run(here, FakeUpstream(("a",), 1.0, ("b",), FOREVER))
        await trio.sleep(0.5)
        log.available = False
        await trio.sleep(20)
        log.available = True
        await run.done.wait()
        metrics = here.supervisor.metrics
    assert metrics.failures.counts["demo", "store_unavailable"] == 1
    assert metrics.providers["demo"].tokens == 1, "the second was never durable"
    said = [line["event"] for line in lines]
    assert said.count("end not written yet") == 1, "once, however long it lasts"
    assert said.count("run finished") == 1


async def test_repaired_characters_are_counted(lines: Lines, autojump_clock: MockClock) -> None:
    """Of every answer, whether it ended well or not."""
    total = 0
    metrics = Metrics()
    async with owner(MemoryBackend().process(), metrics=metrics) as here:
        for n, script in enumerate(((("a",),), (("a",), UpstreamError("upstream_cut", "cut")))):
            await here.request(f"gen_{n}", f"conv_{n}")
            run = run_of(FakeUpstream(*script, repaired=3), f"gen_{n}", f"conv_{n}", "openai/x")
            here.supervisor.start(run)
            await run.done.wait()
            total += 3
            assert metrics.providers["openai"].repaired == total
    assert [line["repaired"] for line in lines if line["event"] == "run finished"] == [3, 3]
