"""Tool calls of an answer that was cut off, or whose arguments are incomplete: none runs, and none with guessed
arguments.
"""

from typing import Any

import pytest
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.providers import ArgumentsDelta, Finish, ToolCall
from server.workflows import Tool, tool
from tests.generations.fake_agent import USAGE, FakeAgent, Say

from .run_commands import ended, events, play
from .runtime_process import app, process
from .tool_examples import told

RAN: list[Any] = []


@tool(name="wipe")
async def bare(folder: str) -> str:
    """Wipes a folder."""
    RAN.append(folder)
    return "gone"


@tool(name="wipe")
async def defaulted(folder: str = "/") -> str:
    """Wipes a folder, all of them if none is named."""
    RAN.append(folder)
    return "gone"


@tool(name="wipe", approval="never")
async def unasked(folder: str) -> str:
    """Wipes a folder without asking."""
    RAN.append(folder)
    return "gone"


@tool(name="wipe", approval="never")
async def unasked_defaulted(folder: str = "/") -> str:
    """Wipes without asking, all if none is named."""
    RAN.append(folder)
    return "gone"


CLIENTS = {"name": "wipe", "description": "Wipes.", "approval": "never"}
TOOLS: list[Tool | dict[str, str]] = [bare, defaulted, unasked, unasked_defaulted, CLIENTS]
ARGUMENTS = ["", "{", '{"folder": "/tm', '{"folder": "/tmp"}', "{}"]
CUT = ["length", "max_tokens", "content_filter", "refusal", "pause_turn", "unknown", ""]


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("wiping", TOOLS, ids=["bare", "defaulted", "unasked", "unasked_defaulted", "client"])
@pytest.mark.parametrize("reason", CUT)
async def test_no_call_of_a_truncated_answer_runs(
    reason: str, wiping: Tool | dict[str, str], arguments: str, autojump_clock: MockClock
) -> None:
    """No person is asked either.

    The generation ends with the finish reason, and each call has its end in the log.
    """
    calls = (ToolCall("a", "wipe", '{"folder": "/tmp"}'), ToolCall("b", "wipe", arguments))
    pieces = [ArgumentsDelta(1, "wipe", arguments)] if arguments else []
    agent = FakeAgent(Say([["so "], pieces] if pieces else [["so "]], finish=Finish(reason, USAGE, calls)))
    log = MemoryBackend()
    registry = app(wiping) if isinstance(wiping, Tool) else app()
    async with process(log.process(), agent, registry=registry) as here:
        run = await play(here, model="fake", tools=("wipe",) if isinstance(wiping, Tool) else (wiping,))
        found = await ended(here, run)
    assert RAN == []
    assert (found.status, found.finish_reason, found.text) == ("completed", reason, "so ")
    assert len(agent.asked) == 1, "the same limit again, paid for again"
    assert [call.error and call.error["code"] for call in found.tool_calls] == ["answer_truncated"] * 2
    assert [call.needs_approval for call in found.tool_calls] == [False, False]
    assert not events(log, run, "tool.started")
    whole = arguments == '{"folder": "/tmp"}'
    assert found.tool_calls[1].arguments == ({"folder": "/tmp"} if whole else {})


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("wiping", [unasked, unasked_defaulted])
@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
async def test_incomplete_call_fails_and_the_model_is_told(
    reason: str, wiping: Tool, arguments: str, autojump_clock: MockClock
) -> None:
    """The other calls of the answer run, for the provider said that the answer ended normally."""
    calls = (ToolCall("a", "wipe", '{"folder": "/tmp"}'), ToolCall("b", "wipe", arguments, whole=False))
    agent = FakeAgent(Say(finish=Finish(reason, USAGE, calls)), Say([["done"]]))
    async with process(MemoryBackend().process(), agent, registry=app(wiping)) as here:
        run = await play(here, model="fake", tools=("wipe",))
        found = await ended(here, run)
    assert RAN == ["/tmp"]
    assert (found.status, found.finish_reason) == ("completed", "stop")
    ran, truncated = told(agent)
    assert ran == "gone"
    assert '"code":"answer_truncated"' in truncated
    assert "not run" in truncated


@pytest.mark.parametrize(("wiping", "ran"), [(unasked, []), (unasked_defaulted, ["/"])])
async def test_complete_call_without_arguments_gets_an_empty_object(
    wiping: Tool, ran: list[str], autojump_clock: MockClock
) -> None:
    """Models write no arguments for tools that take none; the tool's defaults apply, and are shown."""
    agent = FakeAgent(Say(finish=Finish("tool_calls", USAGE, (ToolCall("a", "wipe", ""),))), Say([["done"]]))
    async with process(MemoryBackend().process(), agent, registry=app(wiping)) as here:
        run = await play(here, model="fake", tools=("wipe",))
        (call,) = (await ended(here, run)).tool_calls
    assert ran == RAN
    assert call.arguments == ({"folder": "/"} if ran else {})
