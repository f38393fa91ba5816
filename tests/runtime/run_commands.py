"""Commands that tests send to runs of workflows and of models with tools, and waits for a state of a run."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import trio

from eventstore import Appended, Event, Key
from eventstore.memory_backend import MemoryBackend
from server.conversations.budget import Budget
from server.conversations.command_types import (
    DecideCall,
    FinishCall,
    RaiseBudget,
    RequestGeneration,
    SteerGeneration,
    WebhookTarget,
)
from server.conversations.conversation_state import Generation, ToolCall
from server.generations.run.run_errors import root_fault
from server.generations.run_context import Run
from server.ids import new_id
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow
from tests.generations.run_owner import fields, the_end

from .runtime_process import app, folded, of, process, say, start

At = tuple[str, str]
"""A conversation and a generation of it."""


async def play(
    here: ConversationService,
    conversation: str | None = None,
    *,
    workflow: str = "w",
    model: str | None = None,
    input: Any = None,
    tools: tuple[str | Mapping[str, Any], ...] = (),
    said: str | None = None,
    on_crash: Literal["fail", "restart"] | None = None,
    if_running: Literal["reject", "queue", "interrupt"] = "reject",
    ephemeral: bool = False,
    webhook: str | None = None,
    budget: Budget | None = None,
    key: Key | None = None,
    **parameters: Any,
) -> At:
    """Requests a run of the workflow, or of the model if one is named; the message `said` comes first."""
    if said is not None:
        conversation = conversation or await start(here)
        await say(here, conversation, said)
    command = RequestGeneration(
        new_id("gen"),
        parameters,
        "anonymous",
        model=model,
        workflow=None if model else workflow,
        value=input,
        tools=tools,
        on_crash=on_crash,
        if_running=if_running,
        ephemeral=ephemeral,
        webhook=WebhookTarget(webhook) if webhook is not None else None,
        budget=budget,
    )
    return (await here.commands.request_generation(conversation, command, key)).stream, command.generation


async def snapshot(here: ConversationService, run: At) -> Generation:
    """The generation as this process sees it at the head."""
    return (await here.generation(run[1]))[1]


async def ended(here: ConversationService, run: At) -> Generation:
    """Waits until the generation has ended, and returns it."""
    with trio.fail_after(200_000):
        while not (found := await snapshot(here, run)).ended:
            await trio.sleep(0.1)
    return found


async def started(
    here: ConversationService, run: At, *, text: str = "", waiting: int | None = None, attempt: int = 1
) -> Generation:
    """Waits until the generation has this text and this number of calls that wait for a decision."""
    with trio.fail_after(1_000):
        while True:
            found = await snapshot(here, run)
            waits = sum(call.waits for call in found.tool_calls)
            if found.attempt >= attempt and found.text == text and waiting in (None, waits):
                return found
            await trio.sleep(0.1)


async def decide(
    here: ConversationService,
    run: At,
    decision: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    call: str | None = None,
    seen: str | None = None,
    reason: str | None = None,
    by: str = "anonymous",
    key: Key | None = None,
) -> Appended:
    """Decides on the call, by default on the first one that waits, with the arguments it was proposed with."""
    found = await snapshot(here, run)
    (about, *_) = [one for one in found.tool_calls if one.call == call or (call is None and one.waits)]
    digest = about.proposed_digest if seen is None else seen
    command = DecideCall(run[1], about.call, decision, digest, arguments, reason, by)  # type: ignore[arg-type]
    return await here.commands.decide_call(run[0], command, key)


async def raise_budget(
    here: ConversationService, run: At, tokens: int | None = None, cost: float | None = None, *, by: str = "Ada"
) -> Appended:
    """Raises the budget of the run."""
    return await here.commands.raise_budget(run[0], RaiseBudget(run[1], tokens, cost, by), None)


async def steer(here: ConversationService, run: At, name: str, value: Any, key: Key | None = None) -> Appended:
    """Gives a parameter another value."""
    return await here.commands.steer_generation(run[0], SteerGeneration(run[1], name, value, "anonymous"), key)


async def finish(
    here: ConversationService,
    run: At,
    outcome: Mapping[str, Any],
    *,
    call: str | None = None,
    key: Key | None = None,
) -> Appended:
    """Sends the outcome of a client's call, by default of the first one."""
    about = call or (await snapshot(here, run)).tool_calls[0].call
    return await here.commands.finish_call(run[0], FinishCall(run[1], about, outcome, "anonymous"), key)


def kinds(log: MemoryBackend, run: At) -> list[str]:
    """The types of the run's events."""
    return [event.type for event in of(log, *run)]


def calls(log: MemoryBackend, run: At) -> tuple[ToolCall, ...]:
    """The run's calls, folded from the log."""
    found = folded(log, run[0]).generation(run[1])
    assert found is not None
    return found.tool_calls


def events(log: MemoryBackend, run: At, kind: str) -> list[Event]:
    """The run's events of one type."""
    return [event for event in of(log, *run) if event.type == kind]


async def outcome(
    function: Callable[[Run], Awaitable[Any]], *, input: Any = None, **declared: Any
) -> dict[str, Any]:
    """The fields of the terminal event of a workflow that runs undisturbed."""
    log = MemoryBackend()
    made = Workflow("w", function, **declared)
    async with process(log.process(), registry=app(made)) as here:
        run = await play(here, input=input)
        await ended(here, run)
    return fields(the_end(of(log, *run)))


class AppError(Exception):
    """An exception class of the app's own."""


def cause(lines: Sequence[Mapping[str, Any]]) -> str:
    """The last exception of an app in the server's own log: its class and message."""
    fault = root_fault(next(line["exc_info"] for line in reversed(lines) if "reference" in line))
    return f"{type(fault).__name__}: {fault}"
