"""Runs of workflows as apps write them: what they write and return, and how they fail."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.providers import UpstreamError
from server.workflows import ToolError, Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Slow

from .run_commands import AppError, cause, ended, kinds, outcome, play, snapshot
from .runtime_process import app, of, process


async def test_tokens_progress_and_result(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> dict[str, int]:
        assert (run.input, run.attempt, run.parameters) == ([1, 2], 1, {"depth": 3})
        await run.token("Hel")
        await trio.sleep(2)
        await run.token("lo\0")
        await run.progress(1, 2, "pages", stage="reading")
        await run.progress(2.5, 3, "pages")
        return {"sum": sum(run.input)}

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here, input=[1, 2], depth=3)
        await ended(here, run)
        found = await snapshot(here, run)
    assert kinds(log, run) == [
        *("generation.requested", "generation.started", "token", "token"),
        *("progress", "progress", "result", "generation.completed"),
    ]
    assert (found.text, found.tokens, found.result) == ("Hello\ufffd", 2, {"sum": 3})
    assert found.progress is not None
    assert (found.progress.done, found.progress.stage) == (2.5, None)
    end = fields(the_end(of(log, *run)))
    assert end == {"finish_reason": "stop", "usage": {}, "ttft_ms": 0}


async def test_write_after_a_cancelled_one_is_kept(autojump_clock: MockClock) -> None:
    """The first write may or may not be in the log; the next one is."""

    async def work(run: Run) -> None:
        for number in range(4):
            with trio.move_on_after(0.75):  # longer than the way there, shorter than there and back
                await run.token(f"cut {number} ")
            await run.token(f"whole {number} ")

    log = MemoryBackend()
    async with process(Slow(log.process(), 1.0), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await ended(here, run)
        found = await snapshot(here, run)
    assert found.status == "completed"
    assert [f"whole {number}" in found.text for number in range(4)] == [True] * 4


async def test_cancelled_write_in_flight_keeps_its_order(autojump_clock: MockClock) -> None:
    """It does not come later than what was written after it."""

    async def work(run: Run) -> None:
        for number in range(3):
            with trio.move_on_after(0.25):
                await run.token(f"{number}a")
            await run.token(f"{number}b")

    log = MemoryBackend()
    async with process(Slow(log.process(), 1.0), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await ended(here, run)
        text = (await snapshot(here, run)).text
    assert text.replace("0a", "").replace("1a", "").replace("2a", "") == "0b1b2b"
    assert "".join(sorted(text)) == "".join(sorted("0a0b1a1b2a2b"[: len(text)])) or len(text) <= 12


async def raises(error: BaseException) -> dict[str, Any]:
    async def work(run: Run) -> None:
        await run.token("so ")
        raise error

    return await outcome(work)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (AppError("it broke"), "AppError: it broke"),
        (AppError(), "AppError: "),
        (SystemExit(3), "SystemExit: 3"),
        (ExceptionGroup("some", [AppError("one"), AppError("two")]), "AppError: one"),
        (BaseExceptionGroup("some", [SystemExit(1)]), "SystemExit: 1"),
        (ExceptionGroup("some", [ExceptionGroup("inner", [AppError("deep")])]), "AppError: deep"),
    ],
)
async def test_exception_is_logged_and_hidden_from_clients(
    error: BaseException, logged: str, lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    """Clients see a reference; the server's log has the traceback under it."""
    failure = (await raises(error))["error"]
    reference = failure["reference"]
    assert (failure["code"], failure["message"]) == (
        "workflow_failed",
        f"The workflow failed. The server's log says why, under {reference}.",
    )
    assert cause(lines) == logged
    assert reference in [line.get("reference") for line in lines]


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("some", [error])])
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UpstreamError("upstream_cut", "The line went dead."), "upstream_cut", "The line went dead."),
        (ToolError("The file has no pages."), "workflow_failed", "The file has no pages."),
        (ToolError("\ud800\0"), "workflow_failed", "\ufffd\ufffd"),
        (ToolError("x" * 10_000), "workflow_failed", "x" * 2_000),
    ],
)
async def test_known_errors_reach_clients(
    error: Exception, code: str, message: str, wrap: Callable[[Exception], Exception], autojump_clock: MockClock
) -> None:
    assert (await raises(wrap(error)))["error"] == {"code": code, "message": message}


async def test_exception_in_a_child_task_fails_the_run(
    lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    async def fail(error: BaseException) -> None:
        raise error

    async def work(run: Run) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail, (run.input == "exit" and SystemExit(2)) or AppError("inside"))

    await outcome(work)
    assert cause(lines) == "AppError: inside"
    await outcome(work, input="exit")
    assert cause(lines) == "SystemExit: 2"


async def test_sys_exit_during_cancellation_does_not_end_the_process(autojump_clock: MockClock) -> None:
    """Its clean-up calls `sys.exit` while it is cancelled: the process and its other runs go on."""

    async def work(run: Run) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(1)

    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(5.0, ("a",)), registry=app(Workflow("w", work))) as here:
        run, other = await play(here), await play(here, model="fake")
        await trio.sleep(1)
        assert await here.supervisor.stop(run[1])
        await ended(here, other)
    assert the_end(of(log, *other)).type == "generation.completed"


class Sum(BaseModel):
    total: int


@pytest.mark.parametrize("value", [{"total": "3"}, {"x": 1}, 3, None, float("nan"), object()])
async def test_result_of_another_type_fails_the_run(value: Any, autojump_clock: MockClock) -> None:
    async def work(run: Run) -> Any:
        return value

    error = (await outcome(work, result=Sum))["error"]
    assert error["code"] == "invalid_result"


@pytest.mark.parametrize("value", [Sum(total=3), {"total": 3}])
async def test_result_of_the_declared_type(value: Any, autojump_clock: MockClock) -> None:
    async def work(run: Run) -> Any:
        return value

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work, result=Sum))) as here:
        run = await play(here)
        await ended(here, run)
        assert (await snapshot(here, run)).result == {"total": 3}


@pytest.mark.parametrize("done", [float("nan"), float("inf"), -1])
async def test_progress_refuses_infinite_and_negative_numbers(
    done: float, lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    """JSON has no infinity: readers would get a null where they expect a number."""

    async def work(run: Run) -> None:
        await run.progress(done, 3, "pages")

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await ended(here, run)
        found = await snapshot(here, run)
    assert found.progress is None
    assert cause(lines).startswith("ValueError: progress counts with numbers from 0 on")
