"""Executes one tool call: proposed, decided on where a person has to, started, finished; each step durable.

Owns the events of a call from its proposal to its outcome, and what the model is told where a call does not run.
What runs is what the log holds: the arguments of the decision where there is one, else those of the proposal. A
later attempt starts a call that was decided on. A call that an earlier attempt had started, and that may not run
twice, is not started again: its outcome is unknown.

Two events may be written by others as well: the decision (a person) and the outcome of a client's tool (a client).
Each claims a key of the call (`idempotency_keys`): the second to come is told so. Must not know models or
workflows' runs.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import trio

from eventstore import Key, KeyReused, NewEvent, StoreError
from server import event_types
from server.conversations.conversation_state import ToolCall
from server.conversations.idempotency_keys import DECISION, OUTCOME, approval_name
from server.conversations.state_machine import CallStatus
from server.event_types import MAX_EVENT_BYTES, SERVER, EventTooLarge, check_event_size
from server.generations.run.run_errors import failure_from, is_fault, log_with_reference, root_fault, see_log
from server.generations.run.run_log import RunLog
from server.ids import new_id
from server.providers import ToolCall as Wanted
from server.unicode_safety import find_hidden_characters, repair_text
from server.workflows import AnyTool, BadArguments, InjectedRun, NotCanonical, Tool, digest, to_jsonable

Outcome = Mapping[str, Any]
"""`{"result": …}` or `{"error": {"code", "message"}}`."""
RunInCall = Callable[[str], InjectedRun]
"""Makes the run as a tool is handed it, for the call with this id."""

MAX_ARGUMENTS = MAX_EVENT_BYTES // 8
"""Characters of a call's arguments. As JSON, with the rest of their event, they stay within an event's bound."""
REJECTED_BEFORE = "rejected_before"
"""The code of a call that repeats one which a person has rejected."""
MAX_QUOTED = 200
"""Characters of the model's broken arguments that an error message quotes to it."""
CLIENT_SECONDS = 3600.0
"""How long a client may take to run its tool."""


def propose_call(
    run_log: RunLog,
    step: str,
    wanted: Wanted,
    tools: Mapping[str, AnyTool],
    now: datetime,
    *,
    call: str | None = None,
    cut: str | None = None,
) -> tuple[str, tuple[NewEvent, ...]]:
    """The id and the events of a call that the model wants: its proposal, and its end where nothing may run.

    `call` is the id under which its arguments were streamed, if they were. `cut` is the provider's reason where
    the answer was cut.
    """
    call = call or new_id("call")
    tool = tools.get(wanted.name)
    arguments, error = _read_arguments(wanted, tool, cut)
    proposed_digest, name = digest(arguments), repair_text(wanted.name)
    if error is None and tool is not None:
        error = _rejected_before(run_log, name, proposed_digest)
    needs_approval = error is None and tool is not None and tool.needs_approval(arguments)
    proposed = event_types.tool_proposed(
        run_log.generation,
        call,
        name=name,
        arguments=arguments,
        arguments_digest=proposed_digest,
        needs_approval=needs_approval,
        step=step,
        client=tool is not None and tool.client,
        expires_at=expiry(now, tool.expires) if needs_approval and tool is not None else None,
        hidden_characters=find_hidden_characters(name, arguments),
        approvers=tool.approvers if tool is not None else 1,
        another_person=tool is not None and tool.another_person,
    )
    if error is None:
        return call, (proposed,)
    return call, (proposed, event_types.tool_finished(run_log.generation, call, {"error": error}))


def expiry(now: datetime, seconds: float | None) -> datetime | None:
    """When the time to decide on a call is over, `seconds` after `now`; None: never."""
    return None if seconds is None else now + timedelta(seconds=seconds)


def _read_arguments(
    wanted: Wanted, tool: AnyTool | None, cut: str | None
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The arguments with the tool's defaults filled in, and the error where the call must not run.

    "" counts as an empty object only where the provider closed the call: a call that was cut before its arguments
    must not run with arguments that the model never wrote.
    """
    truncated = _truncated(wanted, cut)
    try:
        # json and not msgspec: msgspec refuses an unpaired surrogate (half an emoji), which `clean` repairs.
        arguments = json.loads(wanted.arguments or ("{}" if truncated is None else ""))
    except (ValueError, RecursionError):
        arguments = None
    if len(wanted.arguments) > MAX_ARGUMENTS:
        arguments = None
        error = _bad_arguments(f"the arguments are longer than {MAX_ARGUMENTS:,} characters")
    else:
        error = _bad_arguments(f"the arguments are no JSON object: {wanted.arguments[:MAX_QUOTED]!a}")
    if not isinstance(arguments, dict):
        return {}, truncated or error
    try:
        arguments = to_jsonable(arguments)
        digest(arguments)
    except ValueError as refused:
        return {}, truncated or _bad_arguments(str(refused))
    if truncated is not None:
        return arguments, truncated
    if tool is None:
        return arguments, event_types.error_object(
            "unknown_tool", repair_text(f"there is no tool {wanted.name[:MAX_QUOTED]!a}")
        )
    try:
        filled = tool.check(arguments)
        digest(filled)
    except (BadArguments, NotCanonical) as refused:
        return arguments, _bad_arguments(str(refused))
    except Exception as fault:  # validators of the app's own types may raise anything
        reference = log_with_reference("arguments could not be checked", fault, tool=tool.name)
        return arguments, event_types.error_object(
            "invalid_arguments", f"The arguments could not be checked. {see_log(reference)}", reference
        )
    return filled, None


def _truncated(wanted: Wanted, cut: str | None) -> dict[str, str] | None:
    if cut is not None:
        why = f"The answer was cut ({cut}), so none of its calls was run."
    elif not wanted.whole:
        why = "The answer ended before this call was complete, so it was not run. Call it again, whole."
    else:
        return None
    return event_types.error_object("answer_truncated", repair_text(why))


def _bad_arguments(message: str) -> dict[str, str]:
    return event_types.error_object("invalid_arguments", repair_text(message))


def _rejected_before(run_log: RunLog, name: str, proposed_digest: str) -> dict[str, str] | None:
    """The error of a call that a person has rejected in this run: the same question is not asked twice."""
    for call in run_log.calls:
        seen = (call.proposed_digest, call.modified_from)
        same = call.name == name and proposed_digest in seen and not call.is_question
        if same and call.decision == "rejected" and call.by != SERVER:
            why = f" ({call.reason})" if call.reason else ""
            return event_types.error_object(
                REJECTED_BEFORE,
                f"A person has rejected this call with these arguments before{why}. It is not asked again; "
                "do something else, or say that it cannot be done.",
            )
    return None


async def execute_call(
    run_log: RunLog, call: str, tools: Mapping[str, AnyTool], run_in_call: RunInCall
) -> Outcome:
    """Takes a proposed call through to its outcome: waits for its decision, runs it here or lets a client run it.

    Raises `Fenced`, `StoreUnavailable`.
    """
    if run_log.call(call).waits:
        await wait_for_decision(run_log, call)
    found = run_log.call(call)
    if found.status is CallStatus.REJECTED:
        return {"error": _refusal(found)}
    if found.status is CallStatus.FINISHED:
        return outcome_of(found)
    tool = tools.get(found.name)
    if tool is None or not tool.client:
        return await _run_here(run_log, found, tool, run_in_call)
    if found.status is not CallStatus.STARTED:
        await run_log.write([event_types.tool_started(run_log.generation, call)])
    return await _run_by_client(run_log, call)


def _refusal(found: ToolCall) -> dict[str, str]:
    """What the model is told of a rejected call. The words keep it from trying the same call again."""
    if found.by == SERVER:
        return event_types.error_object("expired", found.reason or "nobody decided on this call in time")
    why = f" The reason: {found.reason}" if found.reason else ""
    return event_types.error_object(
        "rejected", f"A person rejected this call; do not make it again with the same arguments.{why}"
    )


def outcome_of(found: ToolCall) -> Outcome:
    """The outcome of a finished call."""
    return {"error": found.error} if found.error is not None else {"result": found.result}


async def wait_for_decision(run_log: RunLog, call: str) -> None:
    """Waits until the call is decided on. When its time is over, writes the server's decision: rejected."""
    while run_log.call(call).waits:
        found = run_log.call(call)
        if found.expires_at is None:
            await run_log.wait_until(lambda: not run_log.call(call).waits)
            continue
        left = (found.expires_at - await run_log.clock()).total_seconds()
        if left > 0:
            with trio.move_on_after(left):
                await run_log.wait_until(lambda: not run_log.call(call).waits)
            continue
        expired = event_types.tool_decided(
            run_log.generation,
            call,
            decision="rejected",
            proposed_digest=found.proposed_digest,
            arguments=found.arguments,
            arguments_digest=found.arguments_digest,
            reason="expired",
            by=SERVER,
        )
        keys = [Key(DECISION, call)]
        if found.approvers > 1:
            keys.append(Key(DECISION, approval_name(call, found.position)))
        try:
            await run_log.write([expired], keys=tuple(keys))
        except (
            KeyReused
        ):  # a person decided in the last moment, or approved a call that others have to approve too
            await run_log.wait_until(partial(_has_moved, run_log, found))


def _has_moved(run_log: RunLog, found: ToolCall) -> bool:
    """Whether an event of the call is known that came after those which `found` was made of."""
    return run_log.call(found.call).position > found.position


async def _run_here(run_log: RunLog, found: ToolCall, tool: AnyTool | None, run_in_call: RunInCall) -> Outcome:
    if found.status is CallStatus.STARTED and not (tool is not None and tool.idempotent):
        # An earlier attempt started the tool and is gone: nobody can know whether the tool took effect.
        return await _finish(
            run_log,
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
        return await _finish(run_log, found, {"error": {"code": "unknown_tool", "message": message}})
    if found.status is not CallStatus.STARTED:
        await run_log.write([event_types.tool_started(run_log.generation, found.call)])
    with run_log.stats.working():
        outcome = await _call_tool(tool, found, run_in_call(found.call))
    return await _finish(run_log, found, outcome)


async def _finish(run_log: RunLog, found: ToolCall, outcome: Outcome) -> Outcome:
    event = event_types.tool_finished(run_log.generation, found.call, outcome)
    try:
        check_event_size(event, f"the result of {found.name}")
    except EventTooLarge as error:  # the tool has taken effect: the model must learn that it ran
        outcome = {"error": {"code": "result_too_large", "message": str(error)}}
        event = event_types.tool_finished(run_log.generation, found.call, outcome)
    await run_log.write([event])
    return outcome


async def _call_tool(tool: Tool, found: ToolCall, run: InjectedRun) -> Outcome:
    try:
        bound = tool.bind(found.arguments, run)
        with trio.move_on_after(tool.seconds):
            if tool.is_async:
                value = await bound()
            else:  # a plain function may block, so it runs in a thread and not in the event loop
                value = await trio.to_thread.run_sync(bound, abandon_on_cancel=True)
            return {"result": to_jsonable(value)}
    except (Exception, SystemExit, BaseExceptionGroup) as error:
        fault = root_fault(error)
        if isinstance(fault, StoreError) or not is_fault(error):
            raise  # not the tool's fault: the run is fenced, the database is away, or the run is cancelled
        return {"error": failure_from("tool_failed", "The tool failed.", fault, error, tool=tool.name)}
    unit = "second" if tool.seconds == 1 else "seconds"
    return {"error": {"code": "tool_timeout", "message": f"it took longer than {tool.seconds:g} {unit}"}}


async def _run_by_client(run_log: RunLog, call: str) -> Outcome:
    with trio.move_on_after(CLIENT_SECONDS):
        await run_log.wait_until(lambda: run_log.call(call).status is CallStatus.FINISHED)
    if run_log.call(call).status is not CallStatus.FINISHED:
        error = {"code": "client_timeout", "message": f"no client sent a result within {CLIENT_SECONDS:g} seconds"}
        try:
            await run_log.write(
                [event_types.tool_finished(run_log.generation, call, {"error": error})],
                keys=(Key(OUTCOME, call),),
            )
        except KeyReused:
            await run_log.wait_until(lambda: run_log.call(call).status is CallStatus.FINISHED)
    return outcome_of(run_log.call(call))
