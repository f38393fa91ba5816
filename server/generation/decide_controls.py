"""`decide` for what people tell a generation that runs: steering, decisions on calls, results of calls. Pure.

Two who decide at once both pass here, on the same state; the store takes one of them, for each decision and each
result claims its call's key (`DECISION`, `OUTCOME`).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from eventstore import NewEvent
from server import events
from server.errors import Problem, not_found
from server.generation.commands import DecideCall, FinishCall, SteerGeneration
from server.generation.state import Conversation, Generation, ToolCall
from server.generation.states import CallStatus
from server.hidden_characters import hidden_characters
from server.workflows import BadValue, NotCanonical, UnknownParameter, Workflow, digest

Check = Callable[[ToolCall, Mapping[str, Any]], dict[str, Any]]
DECISION: Final = "decision"
"""The scope of the keys that let a call be decided once."""
OUTCOME: Final = "outcome"
"""And be finished once."""


def steer_generation(
    state: Conversation, command: SteerGeneration, workflow: Workflow | None
) -> tuple[NewEvent, ...]:
    """The parameter's new value. `workflow` declares what may be steered; None: nothing.

    `Problem` 404; 409 `generation_ended`; 422 `not_steerable`, `unknown_parameter`, `invalid_value`.
    """
    found = _running(state, command.generation)
    if workflow is None or not found.steering:
        what = f"the workflow {found.workflow}" if found.workflow else "a model's answer"
        raise Problem(422, "not_steerable", f"Nothing of {what} can be steered: no parameter is declared.")
    try:
        value = workflow.steer(found.steering, command.name, command.value)
    except UnknownParameter as error:
        raise Problem(422, "unknown_parameter", str(error), extra={"field": "name"}) from None
    except BadValue as error:
        raise Problem(422, "invalid_value", str(error), extra={"field": "value"}) from None
    return (events.steering_changed(found.id, command.name, value, command.by),)


def decide_call(
    state: Conversation,
    command: DecideCall,
    now: datetime,
    check: Check,
) -> tuple[NewEvent, ...]:
    """The decision. `check` fills new arguments with the tool's defaults, or raises a `Problem`: they do not fit.

    `Problem` 404; 409 `generation_ended`, `no_decision_needed`, `already_decided`, `digest_mismatch`,
    `decision_expired`; 422.
    """
    found = _running(state, command.generation)
    call = _call(found, command.call)
    if not call.needs_approval:
        raise Problem(409, "no_decision_needed", f"The call {call.call} of {call.name} runs without a decision.")
    if call.decision is not None:
        raise Problem(
            409,
            "already_decided",
            f"The call {call.call} was {call.decision} already, by {call.by}"
            + (f": {call.reason}." if call.reason else "."),
            extra={"decision": call.decision},
        )
    if command.proposed_digest != call.proposed_digest:
        raise Problem(
            409,
            "digest_mismatch",
            "proposed_digest is not that of the arguments that were proposed. Show them again, and decide on what "
            "was seen.",
            extra={"arguments_digest": call.proposed_digest},
        )
    if call.expires_at is not None and now >= call.expires_at:
        raise Problem(
            409, "decision_expired", f"The time to decide on the call {call.call} was over at {call.expires_at}."
        )
    arguments, its_digest = dict(call.arguments), call.arguments_digest
    if (command.decision == "modified") != (command.arguments is not None):
        raise Problem(
            422,
            "invalid_request",
            "arguments: they belong to the decision modified, and to no other.",
            extra={"field": "arguments"},
        )
    if command.arguments is not None:
        arguments = check(call, command.arguments)
        try:
            its_digest = digest(arguments)
        except NotCanonical as error:
            raise Problem(422, "invalid_arguments", str(error), extra={"field": "arguments"}) from None
    decided = events.tool_decided(
        found.id,
        call.call,
        decision=command.decision,
        proposed_digest=call.proposed_digest,
        arguments=arguments,
        arguments_digest=its_digest,
        reason=command.reason,
        by=command.by,
        hidden_characters=hidden_characters(call.name, arguments) if command.arguments is not None else (),
    )
    return (decided,)


def finish_call(state: Conversation, command: FinishCall) -> tuple[NewEvent, ...]:
    """The outcome of a call that a client ran.

    `Problem` 404; 409 `generation_ended`, `already_finished`, `not_started` (nobody may run it yet, or a client
    may not).
    """
    found = _running(state, command.generation)
    call = _call(found, command.call)
    if not call.client:
        raise Problem(409, "not_started", f"The call {call.call} of {call.name} is run by the server.")
    if call.status is CallStatus.FINISHED:
        raise Problem(409, "already_finished", f"The call {call.call} has its result already.")
    if call.status is not CallStatus.STARTED:
        raise Problem(
            409,
            "not_started",
            f"The call {call.call} is {call.status}: it is run after its tool.started.",
        )
    return (events.tool_finished(found.id, call.call, command.outcome, command.by),)


def _running(state: Conversation, generation: str) -> Generation:
    found = state.generation(generation)
    if found is None:
        raise not_found("generation")
    if found.ended:
        raise Problem(
            409, "generation_ended", f"The generation is {found.status} already.", extra={"generation": found.id}
        )
    return found


def _call(found: Generation, name: str) -> ToolCall:
    call = found.call(name)
    if call is None:
        raise not_found("tool call")
    return call
