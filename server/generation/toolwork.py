"""A tool call carried out: proposed, decided where one has to, started, finished; each durable before the next.

What runs is what the log holds: the arguments of the decision where there is one, else those of the proposal. A
call that another attempt decided on is started here; one that another attempt started, and that may not be done
twice, is never run again. The two that others may write as well, the decision and a client's outcome, claim a key
each: whoever comes second is told so.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import trio

from eventstore import Key, KeyReused, NewEvent, StoreError
from server import events
from server.events import MOST_EVENT_BYTES, SERVER, EventTooLarge, bounded
from server.generation.decide_controls import DECISION, OUTCOME
from server.generation.desk import Desk
from server.generation.failing import fault_in, is_fault, refer, see, told
from server.generation.state import ToolCall
from server.generation.states import CallStatus
from server.hidden_characters import hidden_characters
from server.ids import new as new_id
from server.upstream import ToolCall as Wanted
from server.workflows import (
    AnyTool,
    BadArguments,
    NotCanonical,
    RunHandle,
    Tool,
    clean,
    digest,
    to_jsonable,
)

Outcome = Mapping[str, Any]
Inside = Callable[[str], RunHandle]
"""The run as a tool is given it, inside of a call."""

MOST_ARGUMENTS = MOST_EVENT_BYTES // 8
"""Characters of a model's arguments: written as JSON, with the rest of their event, they stay within its bound."""
REJECTED_BEFORE = "rejected_before"
"""The code of a call that a person rejected once, and is not asked about again."""
SHOWN = 200
"""Characters of a model's broken arguments that it is told of."""
CLIENT_SECONDS = 3600.0
"""How long a client may take to run a tool."""


def propose(
    desk: Desk,
    step: str,
    wanted: Wanted,
    tools: Mapping[str, AnyTool],
    now: datetime,
    *,
    call: str | None = None,
    cut: str | None = None,
) -> tuple[str, tuple[NewEvent, ...]]:
    """The proposal of a call that a model wants, and its id; with its end, where nothing is to be run.

    `call`: the id under which its arguments were told while they were written. `cut`: why the answer was cut, if
    it was.
    """
    call = call or new_id("call")
    tool = tools.get(wanted.name)
    arguments, error = _read_arguments(wanted, tool, cut)
    its_digest, name = digest(arguments), clean(wanted.name)
    if error is None and tool is not None:
        error = _rejected_before(desk, name, its_digest)
    asks = error is None and tool is not None and tool.needs_approval(arguments)
    proposed = events.tool_proposed(
        desk.generation,
        call,
        name=name,
        arguments=arguments,
        arguments_digest=its_digest,
        needs_approval=asks,
        step=step,
        client=tool is not None and tool.client,
        expires_at=expiry(now, tool.expires) if asks and tool is not None else None,
        hidden_characters=hidden_characters(name, arguments),
    )
    if error is None:
        return call, (proposed,)
    return call, (proposed, events.tool_finished(desk.generation, call, {"error": error}))


def expiry(now: datetime, seconds: float | None) -> datetime | None:
    """When the time to decide is over."""
    return None if seconds is None else now + timedelta(seconds=seconds)


def _read_arguments(
    wanted: Wanted, tool: AnyTool | None, cut: str | None
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The arguments as they will run, defaults filled in; or the error that says why there is nothing to run.

    Never arguments that the model did not write: "" is an empty object only where the provider closed the call.
    """
    truncated = _truncated(wanted, cut)
    try:
        # Not msgspec: it refuses half an emoji, which is to be repaired.
        arguments = json.loads(wanted.arguments or ("{}" if truncated is None else ""))
    except (ValueError, RecursionError):
        arguments = None
    if len(wanted.arguments) > MOST_ARGUMENTS:
        arguments = None
        error = _bad_arguments(f"the arguments are longer than {MOST_ARGUMENTS:,} characters")
    else:
        error = _bad_arguments(f"the arguments are no JSON object: {wanted.arguments[:SHOWN]!a}")
    if not isinstance(arguments, dict):
        return {}, truncated or error
    try:
        arguments = clean(arguments)
        digest(arguments)
    except ValueError as refused:
        return {}, truncated or _bad_arguments(str(refused))
    if truncated is not None:
        return arguments, truncated
    if tool is None:
        return arguments, events.failure("unknown_tool", clean(f"there is no tool {wanted.name[:SHOWN]!a}"))
    try:
        filled = tool.check(arguments)
        digest(filled)
    except (BadArguments, NotCanonical) as refused:
        return arguments, _bad_arguments(str(refused))
    except Exception as fault:  # of the app's own types, which may raise anything
        reference = refer("arguments could not be checked", fault, tool=tool.name)
        return arguments, events.failure(
            "invalid_arguments", f"The arguments could not be checked. {see(reference)}", reference
        )
    return filled, None


def _truncated(wanted: Wanted, cut: str | None) -> dict[str, str] | None:
    if cut is not None:
        why = f"The answer was cut ({cut}), so none of its calls was run."
    elif not wanted.whole:
        why = "The answer ended before this call was complete, so it was not run. Call it again, whole."
    else:
        return None
    return events.failure("answer_truncated", clean(why))


def _bad_arguments(message: str) -> dict[str, str]:
    return events.failure("invalid_arguments", clean(message))


def _rejected_before(desk: Desk, name: str, its_digest: str) -> dict[str, str] | None:
    """An error where a person has rejected this very call in this run: the same question is not put twice."""
    for call in desk.calls:
        same = (call.name, call.proposed_digest) == (name, its_digest) and not call.is_question
        if same and call.decision == "rejected" and call.by != SERVER:
            why = f" ({call.reason})" if call.reason else ""
            return events.failure(
                REJECTED_BEFORE,
                f"A person has rejected this call with these arguments before{why}. It is not asked again; "
                "do something else, or say that it cannot be done.",
            )
    return None


async def carry_out(desk: Desk, call: str, tools: Mapping[str, AnyTool], inside: Inside) -> Outcome:
    """Sees a proposed call through to its outcome, `{"result": …}` or `{"error": {"code", "message"}}`.

    Raises `Fenced`, `StoreUnavailable`.
    """
    if desk.call(call).waits:
        await decided(desk, call)
    found = desk.call(call)
    if found.status is CallStatus.REJECTED:
        return {"error": _refused(found)}
    if found.status is CallStatus.FINISHED:
        return outcome_of(found)
    tool = tools.get(found.name)
    if tool is None or not tool.client:
        return await _run_here(desk, found, tool, inside)
    if found.status is not CallStatus.STARTED:
        await desk.write([events.tool_started(desk.generation, call)])
    return await _run_by_client(desk, call)


def _refused(found: ToolCall) -> dict[str, str]:
    """What the model is told of a call that was not approved: a person's no is not a fault worth another try."""
    if found.by == SERVER:
        return events.failure("expired", found.reason or "nobody decided on this call in time")
    why = f" The reason: {found.reason}" if found.reason else ""
    return events.failure(
        "rejected", f"A person rejected this call; do not make it again with the same arguments.{why}"
    )


def outcome_of(found: ToolCall) -> Outcome:
    """What a finished call came to."""
    return {"error": found.error} if found.error is not None else {"result": found.result}


async def decided(desk: Desk, call: str) -> None:
    """Waits until the call is decided on, or its time is over: that is a decision too, and written as one."""
    while desk.call(call).waits:
        found = desk.call(call)
        if found.expires_at is None:
            await desk.until(lambda: not desk.call(call).waits)
            continue
        left = (found.expires_at - await desk.clock()).total_seconds()
        if left > 0:
            with trio.move_on_after(left):
                await desk.until(lambda: not desk.call(call).waits)
            continue
        expired = events.tool_decided(
            desk.generation,
            call,
            decision="rejected",
            proposed_digest=found.proposed_digest,
            arguments=found.arguments,
            arguments_digest=found.arguments_digest,
            reason="expired",
            by=SERVER,
        )
        try:
            await desk.write([expired], keys=(Key(DECISION, call),))
        except KeyReused:  # somebody decided in the last moment
            await desk.until(lambda: not desk.call(call).waits)


async def _run_here(desk: Desk, found: ToolCall, tool: AnyTool | None, inside: Inside) -> Outcome:
    if found.status is CallStatus.STARTED and not (tool is not None and tool.idempotent):
        # Another attempt began it, and nobody can know how far it came.
        return await _finish(
            desk,
            found,
            {
                "error": {
                    "code": "outcome_unknown",
                    "message": "the server stopped while this ran; whether it took effect is not known",
                }
            },
        )
    if not isinstance(tool, Tool):
        message = f"this server has no tool {found.name} any more"
        return await _finish(desk, found, {"error": {"code": "unknown_tool", "message": message}})
    if found.status is not CallStatus.STARTED:
        await desk.write([events.tool_started(desk.generation, found.call)])
    with desk.figures.at_work():
        outcome = await _outcome(tool, found, inside(found.call))
    return await _finish(desk, found, outcome)


async def _finish(desk: Desk, found: ToolCall, outcome: Outcome) -> Outcome:
    event = events.tool_finished(desk.generation, found.call, outcome)
    try:
        bounded(event, f"the result of {found.name}")
    except EventTooLarge as error:  # it has taken effect: the model is told so
        outcome = {"error": {"code": "result_too_large", "message": str(error)}}
        event = events.tool_finished(desk.generation, found.call, outcome)
    await desk.write([event])
    return outcome


async def _outcome(tool: Tool, found: ToolCall, run: RunHandle) -> Outcome:
    try:
        bound = tool.bind(found.arguments, run)
        with trio.move_on_after(tool.seconds):
            if tool.is_async:
                value = await bound()
            else:  # a plain function may block: not on everybody's time
                value = await trio.to_thread.run_sync(bound, abandon_on_cancel=True)
            return {"result": to_jsonable(value)}
    except (Exception, SystemExit, BaseExceptionGroup) as error:
        fault = fault_in(error)
        if isinstance(fault, StoreError) or not is_fault(error):
            raise  # of the run itself: fenced off, or the database is away; or it is to end
        return {"error": told("tool_failed", "The tool failed.", fault, error, tool=tool.name)}
    return {"error": {"code": "tool_timeout", "message": f"it took longer than {tool.seconds:g} seconds"}}


async def _run_by_client(desk: Desk, call: str) -> Outcome:
    with trio.move_on_after(CLIENT_SECONDS):
        await desk.until(lambda: desk.call(call).status is CallStatus.FINISHED)
    if desk.call(call).status is not CallStatus.FINISHED:
        error = {"code": "client_timeout", "message": f"no client sent a result within {CLIENT_SECONDS:g} seconds"}
        try:
            await desk.write(
                [events.tool_finished(desk.generation, call, {"error": error})], keys=(Key(OUTCOME, call),)
            )
        except KeyReused:
            await desk.until(lambda: desk.call(call).status is CallStatus.FINISHED)
    return outcome_of(desk.call(call))
