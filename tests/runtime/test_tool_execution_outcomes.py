"""What a tool comes to: its result, its failure, its time; none of them is the end of the run."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.event_types import MOST_EVENT_BYTES, generation_cancelled
from server.generations.run_context import Run
from server.generations.tool_execution import MAX_ARGUMENTS
from server.workflows import Tool, ToolError, tool
from tests.generations.owning import fields
from tests.generations.wrapped_log import Slow

from .playing import calls, cause, ended, events, kinds, play, snapshot
from .tooling import Till, told, wants
from .world import app, process


async def come_to(function: Callable[..., Any], **declared: Any) -> dict[str, Any]:
    """The outcome of a tool in a run that nobody disturbs, without its call's id."""
    log, agent = MemoryBackend(), wants((function.__name__, "{}"))
    made = Tool(function, approval="never", **declared)
    async with process(log.process(), agent, registry=app(made)) as here:
        run = await play(here, model="fake", tools=(made.name,))
        assert (await ended(here, run)).status == "completed"
    (event,) = events(log, run, "tool.finished")
    return {name: value for name, value in fields(event).items() if name != "call"}


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (ValueError("no such order"), "ValueError: no such order"),
        (ValueError(), "ValueError: "),
        (SystemExit(2), "SystemExit: 2"),
        (ExceptionGroup("all", [KeyError("a"), KeyError("b")]), "KeyError: 'a'"),
        (BaseExceptionGroup("all", [SystemExit(3)]), "SystemExit: 3"),
    ],
)
async def test_a_tool_that_raises(
    error: BaseException, logged: str, lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    """The model is told that it failed, and goes on; so does everybody else. Why is in the server's log."""

    async def broken() -> None:
        """Breaks."""
        raise error

    failure = (await come_to(broken))["error"]
    reference = failure["reference"]
    assert (failure["code"], failure["message"]) == (
        "tool_failed",
        f"The tool failed. The server's log says why, under {reference}.",
    )
    assert cause(lines) == logged
    assert reference in [line.get("reference") for line in lines]


async def test_a_tool_that_says_why_it_fails(autojump_clock: MockClock) -> None:
    async def refuses() -> None:
        """Refuses."""
        raise ToolError("There is no such order.")

    assert await come_to(refuses) == {"error": {"code": "tool_failed", "message": "There is no such order."}}


async def test_a_tool_that_takes_too_long(autojump_clock: MockClock) -> None:
    async def slow() -> None:
        """Sleeps."""
        await trio.sleep(1_000)

    outcome = await come_to(slow, seconds=2.5)
    assert outcome == {"error": {"code": "tool_timeout", "message": "it took longer than 2.5 seconds"}}


async def test_a_tool_whose_own_time_is_over_has_failed_by_itself(autojump_clock: MockClock) -> None:
    async def careful() -> str:
        """Gives up by itself."""
        with trio.move_on_after(1):
            await trio.sleep_forever()
        return "gave up"

    assert await come_to(careful, seconds=2.0) == {"result": "gave up"}


@pytest.mark.parametrize("value", [None, 0, "é", [1, {"a": None}], {"error": "mine"}])
async def test_what_it_returns(value: Any, autojump_clock: MockClock) -> None:
    async def give() -> Any:
        """Gives."""
        return value

    assert await come_to(give) == {"result": value}


async def test_what_is_no_json_has_failed(autojump_clock: MockClock) -> None:
    async def give() -> Any:
        """Gives."""
        return object()

    assert (await come_to(give))["error"]["code"] == "tool_failed"


async def test_a_plain_function_runs_in_a_thread() -> None:
    """Two at once that wait for each other: neither is in the others' way."""
    both, seen = threading.Barrier(2, timeout=60), set()

    def meet(n: int) -> int:
        """Waits for the other one."""
        seen.add(threading.get_ident())
        both.wait()
        return n

    log, agent = MemoryBackend(), wants(("meet", '{"n": 1}'), ("meet", '{"n": 2}'))
    async with process(log.process(), agent, registry=app(Tool(meet, approval="never"))) as here:
        run = await play(here, model="fake", tools=("meet",))
        with trio.fail_after(60):
            while not (await snapshot(here, run)).ended:
                await trio.sleep(0.01)
    assert sorted(told(agent)) == ["1", "2"]
    assert threading.get_ident() not in seen


async def test_a_tool_that_uses_its_run(autojump_clock: MockClock) -> None:
    """It speaks and reports; what it writes when its time is over costs nothing that comes after it."""
    log, agent = MemoryBackend(), wants(("talk", "{}"))

    @tool(approval="never", seconds=2.25)
    async def talk(run: Run) -> None:
        """Talks on and on."""
        while True:
            await run.token(".")

    async with process(Slow(log.process(), 1.0), agent, registry=app(talk)) as here:
        run = await play(here, model="fake", tools=("talk",))
        found = await ended(here, run)
    assert found.status == "completed"
    assert kinds(log, run).count("tool.finished") == 1
    assert calls(log, run)[0].error == {"code": "tool_timeout", "message": "it took longer than 2.25 seconds"}
    assert found.text.startswith("so ..")
    assert found.text.endswith("done")


async def test_a_tool_that_finds_its_run_overtaken_tells_nobody(autojump_clock: MockClock) -> None:
    """What the log refuses its run is no failure of the tool: the run is over, not the tool's call."""
    log, agent = MemoryBackend(), wants(("talk", "{}"))

    @tool(approval="never")
    async def talk(run: Run) -> None:
        """Talks on and on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            while True:
                await run.token(".")
                await trio.sleep(1)

    async with process(log.process(), agent, registry=app(talk)) as here, process(log.process()) as there:
        run = await play(here, model="fake", tools=("talk",))
        await trio.sleep(2.5)
        event = generation_cancelled(run[1], None, "anonymous")
        assert await there.supervisor.end(*run, event)
        await trio.sleep(5)
        assert here.supervisor.runs == {}
    assert kinds(log, run)[-1] == "generation.cancelled"
    assert "tool.finished" not in kinds(log, run)


async def test_a_result_that_is_too_large_for_an_event(autojump_clock: MockClock) -> None:
    """It took effect; the model hears that nobody can read what it gave."""

    async def dump() -> str:
        """Gives all there is."""
        return "x" * MOST_EVENT_BYTES

    outcome = await come_to(dump)
    assert outcome["error"]["code"] == "result_too_large"
    assert "the result of dump takes 1,0" in outcome["error"]["message"]
    assert "1,048,576 at most" in outcome["error"]["message"]


async def test_arguments_that_are_too_large(autojump_clock: MockClock) -> None:
    """A model's: nothing runs."""
    till = Till(approval="never")
    log, agent = MemoryBackend(), wants(("refund", '{"order": 7, "why": "' + "\u0001x" * MAX_ARGUMENTS + '"}'))
    async with process(log.process(), agent, registry=app(till.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        assert (await ended(here, run)).status == "completed"
        (call,) = calls(log, run)
    assert call.error is not None
    assert call.error["code"] == "invalid_arguments"
    assert till.done == []
    assert max(len(event.data) for event in events(log, run, "tool.proposed")) < 1_000
