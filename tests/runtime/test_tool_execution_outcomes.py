"""The outcome of a tool: a result, a failure or a timeout; none of them ends the run."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.event_types import MAX_EVENT_BYTES, generation_cancelled
from server.generations.run_context import Run
from server.generations.tool_execution import MAX_ARGUMENTS
from server.workflows import Tool, ToolError, tool
from tests.generations.run_owner import fields
from tests.generations.unreliable_logs import Slow

from .run_commands import calls, cause, ended, events, kinds, play, snapshot
from .runtime_process import app, process
from .tool_examples import RefundTool, told, wants


async def tool_outcome(function: Callable[..., Any], **declared: Any) -> dict[str, Any]:
    """The outcome of the tool in an undisturbed run, without its call's id."""
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
async def test_tool_that_raises_has_failed(
    error: BaseException, logged: str, lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    """The model is told only that the tool failed; the traceback is in the server's log."""

    async def broken() -> None:
        """Breaks."""
        raise error

    failure = (await tool_outcome(broken))["error"]
    reference = failure["reference"]
    assert (failure["code"], failure["message"]) == (
        "tool_failed",
        f"The tool failed. The server's log says why, under {reference}.",
    )
    assert cause(lines) == logged
    assert reference in [line.get("reference") for line in lines]


async def test_tool_error_message_reaches_the_model(autojump_clock: MockClock) -> None:
    async def refuses() -> None:
        """Refuses."""
        raise ToolError("There is no such order.")

    assert await tool_outcome(refuses) == {"error": {"code": "tool_failed", "message": "There is no such order."}}


async def test_slow_tool_times_out(autojump_clock: MockClock) -> None:
    async def slow() -> None:
        """Sleeps."""
        await trio.sleep(1_000)

    outcome = await tool_outcome(slow, seconds=2.5)
    assert outcome == {"error": {"code": "tool_timeout", "message": "it took longer than 2.5 seconds"}}


async def test_tools_own_time_limit_is_not_a_timeout(autojump_clock: MockClock) -> None:
    async def careful() -> str:
        """Gives up by itself."""
        with trio.move_on_after(1):
            await trio.sleep_forever()
        return "gave up"

    assert await tool_outcome(careful, seconds=2.0) == {"result": "gave up"}


@pytest.mark.parametrize("value", [None, 0, "é", [1, {"a": None}], {"error": "mine"}])
async def test_json_result_is_recorded(value: Any, autojump_clock: MockClock) -> None:
    async def give() -> Any:
        """Gives."""
        return value

    assert await tool_outcome(give) == {"result": value}


async def test_result_that_is_not_json_is_a_failure(autojump_clock: MockClock) -> None:
    async def give() -> Any:
        """Gives."""
        return object()

    assert (await tool_outcome(give))["error"]["code"] == "tool_failed"


async def test_sync_tools_run_in_threads() -> None:
    """Two of them wait for each other, so neither may block the other."""
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


async def test_tool_writes_tokens_and_progress(autojump_clock: MockClock) -> None:
    """What it is writing as its time ends does no harm to later writes."""
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


async def test_tool_of_a_fenced_run_records_no_failure(autojump_clock: MockClock) -> None:
    """Another process has taken the run over: the refused append ends this run and is no failure of the tool."""
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


async def test_too_large_result_is_a_failure(autojump_clock: MockClock) -> None:
    """The tool took effect; the model is told that its result cannot be read."""

    async def dump() -> str:
        """Gives all there is."""
        return "x" * MAX_EVENT_BYTES

    outcome = await tool_outcome(dump)
    assert outcome["error"]["code"] == "result_too_large"
    assert "the result of dump takes 1,0" in outcome["error"]["message"]
    assert "1,048,576 at most" in outcome["error"]["message"]


async def test_call_with_too_large_arguments_does_not_run(autojump_clock: MockClock) -> None:
    """A model's: nothing runs."""
    refund_tool = RefundTool(approval="never")
    log, agent = MemoryBackend(), wants(("refund", '{"order": 7, "why": "' + "\u0001x" * MAX_ARGUMENTS + '"}'))
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        assert (await ended(here, run)).status == "completed"
        (call,) = calls(log, run)
    assert call.error is not None
    assert call.error["code"] == "invalid_arguments"
    assert refund_tool.done == []
    assert max(len(event.data) for event in events(log, run, "tool.proposed")) < 1_000
