"""Requests for workflows, inputs and tools that do not exist or do not fit: nothing is appended, and the answer
says why.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.problem import Problem
from server.workflows import Workflow, tool

from .run_commands import cause, ended, kinds, play, snapshot, started
from .runtime_process import app, process, refused
from .tool_examples import SHIP


class Essay(BaseModel):
    text: str


async def _grade(run: Run) -> str:
    if run.attempt == 1:
        await run.approve("grade it?")
    return str(run.input.text)


@tool
async def refund() -> None:
    """Gives money back."""


REGISTRY = app(Workflow("w", _grade, input=Essay), refund)
TWICE = (SHIP, {**SHIP, "description": "Another one."})


@pytest.mark.parametrize(
    ("asked", "code", "extra"),
    [
        ({"workflow": "x"}, "unknown_workflow", {"field": "workflow"}),
        ({"input": {"text": 3}}, "invalid_input", {"errors": 1}),
        ({"input": None}, "invalid_input", {"errors": 1}),
        ({"model": "fake", "tools": ("refund", "nothing")}, "unknown_tool", {"field": "tools.1"}),
        ({"model": "fake", "tools": TWICE}, "invalid_request", {"field": "tools.1"}),
        (
            {"model": "fake", "tools": ("refund", {**SHIP, "name": "refund"})},
            "invalid_request",
            {"field": "tools.1"},
        ),
    ],
)
async def test_refused_request_appends_nothing(
    asked: dict[str, Any], code: str, extra: Mapping[str, Any], autojump_clock: MockClock
) -> None:
    log = MemoryBackend()
    async with process(log.process(), registry=REGISTRY) as here:
        with pytest.raises(Problem) as caught:
            await play(here, **asked)
        assert refused(caught) == (422, code)
        told = {name: len(one) if name == "errors" else one for name, one in caught.value.extra.items()}
        assert told == extra
    assert log.streams == {}


async def test_invalid_input_names_its_fields(autojump_clock: MockClock) -> None:
    async with process(MemoryBackend().process(), registry=REGISTRY) as here:
        with pytest.raises(Problem, match=r"input\.text") as caught:
            await play(here, input={"text": 3})
        assert [one["field"] for one in caught.value.extra["errors"]] == ["input.text"]


@pytest.mark.parametrize(
    ("asked", "on_crash"),
    [
        ({"input": {"text": "x"}}, "restart"),
        ({"input": {"text": "x"}, "on_crash": "fail"}, "fail"),
        ({"model": "fake"}, "fail"),
        ({"model": "fake", "on_crash": "restart"}, "restart"),
        ({"model": "fake", "tools": ("refund",)}, "restart"),
        ({"model": "fake", "tools": ("refund",), "on_crash": "fail"}, "fail"),
    ],
)
async def test_on_crash_default_and_choice(
    asked: dict[str, Any], on_crash: str, autojump_clock: MockClock
) -> None:
    async with process(MemoryBackend().process(), registry=REGISTRY) as here:
        assert (await snapshot(here, await play(here, **asked))).on_crash == on_crash


async def test_run_fails_when_a_newer_workflow_refuses_its_input(autojump_clock: MockClock) -> None:
    """The app was changed between two attempts."""
    log, newer = MemoryBackend(), app(Workflow("w", _grade, input=int))
    async with process(log.process(), registry=newer) as here:
        async with process(log.process(), registry=REGISTRY) as lost:
            run = await play(lost, input={"text": "x"})
            await started(lost, run, waiting=1)
        found = await ended(here, run)
    assert found.error is not None
    assert found.error["code"] == "invalid_input"
    assert kinds(log, run)[-2:] == ["generation.started", "generation.failed"]


async def test_two_tools_of_one_name_fail_the_run(lines: list[dict[str, Any]], autojump_clock: MockClock) -> None:
    @tool(name="refund")
    async def other() -> None:
        """Another one."""

    async def work(run: Run) -> None:
        await run.generate("fake", "hi", tools=[refund, other])

    async with process(MemoryBackend().process(), registry=app(Workflow("w", work))) as here:
        found = await ended(here, await play(here))
    assert found.error is not None
    assert found.error["code"] == "workflow_failed"
    assert cause(lines) == "ValueError: two tools are called refund"
