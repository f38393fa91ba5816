"""Calls of an answer that was cut, or that are not whole themselves: none runs, and none with other arguments."""

from typing import Any

import pytest
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.providers import ArgumentsDelta, Finish, ToolCall
from server.workflows import Tool, tool
from tests.generations.fake_agent import USAGE, FakeAgent, Say

from .playing import ended, events, play
from .tooling import told
from .world import app, process

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
async def test_no_call_of_a_cut_answer_runs(
    reason: str, wiping: Tool | dict[str, str], arguments: str, autojump_clock: MockClock
) -> None:
    """Nobody is asked either, and the generation ends with the reason. Each call has its end in the log."""
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
async def test_a_call_that_is_not_whole_does_not_run_and_the_model_is_told(
    reason: str, wiping: Tool, arguments: str, autojump_clock: MockClock
) -> None:
    """The others of the answer do run: the provider said that it ended well."""
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
async def test_no_arguments_of_a_call_that_was_closed_are_an_empty_object(
    wiping: Tool, ran: list[str], autojump_clock: MockClock
) -> None:
    """As models write them of tools that take none. Defaults are the tool's, and shown."""
    agent = FakeAgent(Say(finish=Finish("tool_calls", USAGE, (ToolCall("a", "wipe", ""),))), Say([["done"]]))
    async with process(MemoryBackend().process(), agent, registry=app(wiping)) as here:
        run = await play(here, model="fake", tools=("wipe",))
        (call,) = (await ended(here, run)).tool_calls
    assert ran == RAN
    assert call.arguments == ({"folder": "/"} if ran else {})
