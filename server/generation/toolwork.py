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
from server import events, logs
from server.events import MOST_EVENT_BYTES, SERVER, EventTooLarge, bounded
from server.generation.decide_controls import DECISION, OUTCOME
from server.generation.desk import Desk
from server.generation.failing import fault_in, in_words, is_fault
from server.generation.state import ToolCall
from server.generation.states import CallStatus
from server.ids import new as new_id
from server.upstream import ToolCall as Wanted
from server.workflows import AnyTool, BadArguments, RunHandle, Tool, clean, digest, to_jsonable

log = logs.get("tools")

Outcome = Mapping[str, Any]
Inside = Callable[[str], RunHandle]
"""The run as a tool is given it, inside of a call."""

MOST_ARGUMENTS = MOST_EVENT_BYTES // 8
"""Characters of a model's arguments: written as JSON, with the rest of their event, they stay within its bound."""
SHOWN = 200
"""Characters of a model's broken arguments that it is told of."""
CLIENT_SECONDS = 3600.0
"""How long a client may take to run a tool."""


def propose(
    desk: Desk, step: str, wanted: Wanted, tools: Mapping[str, AnyTool], now: datetime
) -> tuple[str, tuple[NewEvent, ...]]:
    """The proposal of a call that a model wants, and its id; with its end, where nothing can be run."""
    call = new_id("call")
    tool = tools.get(wanted.name)
    arguments, code, message = _read_arguments(wanted, tool)
    asks = code is None and tool is not None and tool.needs_approval(arguments)
    proposed = events.tool_proposed(
        desk.generation,
        call,
        name=clean(wanted.name),
        arguments=arguments,
        arguments_digest=digest(arguments),
        needs_approval=asks,
        step=step,
        client=tool is not None and tool.client,
        expires_at=expiry(now, tool.expires) if asks and tool is not None else None,
    )
    if code is None:
        return call, (proposed,)
    end = events.tool_finished(desk.generation, call, {"error": {"code": code, "message": clean(message)}})
    return call, (proposed, end)


def expiry(now: datetime, seconds: float | None) -> datetime | None:
    """When the time to decide is over."""
    return None if seconds is None else now + timedelta(seconds=seconds)


def _read_arguments(wanted: Wanted, tool: AnyTool | None) -> tuple[dict[str, Any], str | None, str]:
    """The arguments; or a code and a message that say why there is nothing to run."""
    try:
        # Not msgspec: it refuses half an emoji, which is to be repaired.
        arguments = json.loads(wanted.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if len(wanted.arguments) > MOST_ARGUMENTS:
        return {}, "invalid_arguments", f"the arguments are longer than {MOST_ARGUMENTS:,} characters"
    if not isinstance(arguments, dict):
        return {}, "invalid_arguments", f"the arguments are no JSON object: {wanted.arguments[:SHOWN]!a}"
    try:
        arguments = clean(arguments)
        digest(arguments)
    except ValueError as error:
        return {}, "invalid_arguments", str(error)
    if tool is None:
        return arguments, "unknown_tool", f"there is no tool {wanted.name[:SHOWN]!a}"
    try:
        tool.check(arguments)
    except BadArguments as error:
        return arguments, "invalid_arguments", str(error)
    return arguments, None, ""


async def carry_out(desk: Desk, call: str, tools: Mapping[str, AnyTool], inside: Inside) -> Outcome:
    """Sees a proposed call through to its outcome, `{"result": …}` or `{"error": {"code", "message"}}`.

    Raises `Fenced`, `StoreUnavailable`.
    """
    if desk.call(call).waits:
        await decided(desk, call)
    found = desk.call(call)
    if found.status is CallStatus.REJECTED:
        code = "expired" if found.by == SERVER else "rejected"
        return {"error": {"code": code, "message": found.reason or "a person rejected this call"}}
    if found.status is CallStatus.FINISHED:
        return outcome_of(found)
    tool = tools.get(found.name)
    if tool is None or not tool.client:
        return await _run_here(desk, found, tool, inside)
    if found.status is not CallStatus.STARTED:
        await desk.write([events.tool_started(desk.generation, call)])
    return await _run_by_client(desk, call)


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
    return await _finish(desk, found, await _outcome(tool, found, inside(found.call)))


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
        log.warning("tool failed", tool=tool.name, why=type(fault).__name__)
        return {"error": {"code": "tool_failed", "message": in_words(fault)}}
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
