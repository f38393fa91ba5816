"""Steps of a workflow: recorded once they are done, and not done again by a later attempt."""

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.event_types import MAX_EVENT_BYTES, EventTooLarge
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream

from .run_commands import AppError, cause, ended, kinds, outcome, play, snapshot, started
from .runtime_process import app, process


async def test_finished_step_is_not_repeated(autojump_clock: MockClock) -> None:
    """Several steps have one name, and one attempt is lost."""
    done: list[str] = []

    async def slow() -> str:
        await trio.sleep(1)
        done.append("slow")
        return "s"

    async def quick() -> list[int]:
        done.append("quick")
        return [1]

    async def work(run: Run) -> Any:
        first = await run.step("x", slow)
        second = await run.step("x", quick)
        third = await run.step("y", slow)
        await run.token(f"attempt {run.attempt}")
        if run.attempt == 1:
            await trio.sleep_forever()
        return [first, second, third]

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process(), registry=registry):
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, text="attempt 1")
        async with process(log.process(), registry=registry) as here:
            await ended(here, run)
            found = await snapshot(here, run)
    assert done == ["slow", "quick", "slow"]
    assert found.result == ["s", [1], "s"]
    assert (found.attempt, found.text) == (2, "attempt 2"), "it speaks anew"
    assert kinds(log, run).count("step.finished") == 3


@pytest.mark.parametrize("inner", ["step", "generate", "approve"])
async def test_what_a_step_does_counts_within_it(inner: str, autojump_clock: MockClock) -> None:
    """A later attempt skips the first page's step, and does not take what it did inside for the second page's."""
    read: list[int] = []
    upstream = FakeUpstream(("done",))

    async def page(run: Run, number: int) -> None:
        if inner == "generate":
            await run.generate("fake", f"page {number}")
        elif inner == "approve":
            await run.approve("read it?", expires=1)
        else:
            await run.step("inner", partial(read.append, number))

    async def work(run: Run) -> None:
        await run.step("page", partial(page, run, 1))
        if run.attempt == 1:
            await run.token("half")
            await trio.sleep_forever()
        await run.step("page", partial(page, run, 2))
        await run.step("inner", partial(read.append, 3))

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process(), upstream, registry=registry):
        async with process(log.process(), upstream, registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, text="donehalf" if inner == "generate" else "half")
        async with process(log.process(), upstream, registry=registry) as here:
            assert (await ended(here, run)).error is None
    assert read == ([1, 2, 3] if inner == "step" else [3])
    assert len(upstream.asked) == (2 if inner == "generate" else 0)
    assert kinds(log, run).count("tool.proposed") == (2 if inner == "approve" else 0)


async def test_sync_step_runs_in_a_thread() -> None:
    """Other tasks go on meanwhile; a sync function that returns an awaitable is awaited in the event loop."""
    blocked = threading.Event()

    def plain() -> int:
        blocked.wait(5)
        return threading.get_ident()

    async def slow() -> int:
        return threading.get_ident()

    async def work(run: Run) -> list[int]:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def other() -> None:
                await run.token("meanwhile")
                blocked.set()

            values = [await run.step("plain", plain)]
        values.append(await run.step("mixed", lambda: slow()))
        return values

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        found = await ended(here, run)
        assert found.error is None, found.error
        plainly, mixed = found.result
    assert plainly != threading.get_ident() == mixed


async def test_failed_step_is_not_recorded(autojump_clock: MockClock) -> None:
    tries: list[int] = []

    async def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise AppError("once")
        return len(tries)

    async def work(run: Run) -> int:
        with pytest.raises(AppError):
            await run.step("x", flaky)
        value: int = await run.step("x", flaky)
        return value

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await ended(here, run)
        assert (await snapshot(here, run)).result == 2
    assert kinds(log, run).count("step.finished") == 1


@pytest.mark.parametrize("name", ["", "x" * 101])
async def test_step_name_length_is_bounded(
    name: str, lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    async def work(run: Run) -> None:
        await run.step(name, dict)

    await outcome(work)
    assert "1 to 100 characters" in cause(lines)


async def test_step_result_must_be_json(autojump_clock: MockClock) -> None:
    async def thing() -> object:
        return object()

    async def work(run: Run) -> None:
        await run.step("x", thing)

    assert (await outcome(work))["error"]["code"] == "workflow_failed"


LARGE = "x" * MAX_EVENT_BYTES
WAYS: dict[str, Callable[[Run], Awaitable[Any]]] = {
    "the text of run.token": lambda run: run.token(LARGE),
    "run.progress": lambda run: run.progress(1, 2, LARGE),
    "the result of step 's'": lambda run: run.step("s", lambda: [LARGE]),
    "what run.approve asks": lambda run: run.approve("pay", {"to": LARGE}),
}


@pytest.mark.parametrize("what", WAYS)
async def test_too_large_event_raises(what: str, autojump_clock: MockClock) -> None:
    """The error tells what was too large, by how much and what to do; nothing is written."""

    async def work(run: Run) -> str:
        with pytest.raises(EventTooLarge) as caught:
            await WAYS[what](run)
        return str(caught.value)

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        found = await ended(here, run)
    assert found.result is not None
    assert found.result.startswith(f"{what} takes 1,048,")
    assert "1,048,576 at most. Write it in parts, or keep it elsewhere" in found.result
    assert kinds(log, run)[-2:] == ["result", "generation.completed"]
    assert len(kinds(log, run)) == 4


@pytest.mark.parametrize(("text", "fits"), [("x" * (MAX_EVENT_BYTES - 12), True), ("é" * 600_000, False)])
async def test_event_size_is_counted_in_bytes(text: str, fits: bool, autojump_clock: MockClock) -> None:
    async def work(run: Run) -> bool:
        try:
            await run.token(text)
        except EventTooLarge:
            return False
        return True

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        found = await ended(here, await play(here))
    assert found.result is fits


async def test_too_large_result_fails_the_run(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> str:
        return LARGE

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        found = await ended(here, run)
    assert found.error is not None
    assert found.error["code"] == "invalid_result"
    assert "the workflow's result takes 1,048," in found.error["message"]
