"""`decide(state, command)`: the events that a command leads to, or the `Problem` that refuses it. Pure.

First come the commands: what a client can ask of a conversation, as values whose fields were checked already. POST
and WebSocket make them. `by` is who acts, as the server knows it: a client cannot choose it. Then come the
decisions on a conversation, and those on a running generation.

The state may be outdated when the events are appended. The store catches that: the append names the position or
the writer that the decision rests on. Two people may decide on one tool call at the same moment: both pass here,
on the same state. The store takes one append, because both claim the same key (`idempotency_keys.DECISION`,
`idempotency_keys.approval_name`, `idempotency_keys.OUTCOME`).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from eventstore import NewEvent
from server import event_types
from server.conversations.budget import Budget
from server.conversations.command_types import (
    CancelGeneration,
    DecideCall,
    FinishCall,
    PostMessage,
    RaiseBudget,
    RequestGeneration,
    StartConversation,
    SteerGeneration,
)
from server.conversations.conversation_state import Conversation, Generation, ToolCall
from server.conversations.state_machine import CallStatus
from server.event_types import ANONYMOUS
from server.ids import new_id
from server.problem import Problem, not_found
from server.unicode_safety import find_hidden_characters
from server.workflows import BadValue, NotCanonical, UnknownParameter, Workflow, digest

MAX_QUEUED = 100
"""How many generations of one conversation may be queued or running."""

ArgumentCheck = Callable[[ToolCall, Mapping[str, Any]], dict[str, Any]]
"""Checks arguments against the tool of a call, and adds the defaults. Raises `Problem` 422."""


def decide_start(command: StartConversation) -> tuple[NewEvent, ...]:
    """A `conversation.started`. Never refused."""
    return (event_types.conversation_started(command.title, command.metadata, command.tenant),)


def decide_message(command: PostMessage, into: str | None = None) -> tuple[NewEvent, ...]:
    """A `message.posted`. Never refused: a message posted while a generation runs is context for the next one.

    `into`: the generation that is to take it, as `answer_to_join` says of a message that is delivered now.
    """
    return (
        event_types.message_posted(
            command.message, command.role, command.content, command.author, command.by, command.deliver, into
        ),
    )


def answer_to_join(state: Conversation) -> str | None:
    """The generation that takes a message which is delivered now; None: none does, the next answer sees it.

    Of the open generations that is the first, for the others wait for its end. One that has not started yet takes
    messages too: its prompt may be made already. A workflow takes none: its code decides what it reads.
    """
    for found in state.running.values():
        return found.id if found.workflow is None else None
    return None


def decide_request(
    state: Conversation, command: RequestGeneration, make_id: Callable[[str], str] = new_id
) -> tuple[NewEvent, ...]:
    """The command's input as messages, then the `generation.requested`.

    `Problem` 409 `generation_running` while another generation runs, unless the command queues; 409 `queue_full`.
    For `if_running: interrupt` the caller cancels the running generations, and calls this again when they have
    ended.
    """
    running = state.open
    if running and command.if_running != "queue":
        raise Problem(
            409,
            "generation_running",
            f"Generation {running[0].id} of this conversation is still {running[0].status}. Wait for its end, "
            "cancel it, or ask with if_running: queue or interrupt.",
            extra={"generation": running[0].id},
        )
    if len(running) >= MAX_QUEUED:
        raise Problem(
            409,
            "queue_full",
            f"{MAX_QUEUED} generations of this conversation have not ended, which is the most. Wait for one, or "
            "cancel one.",
            extra={"limit": MAX_QUEUED},
        )
    messages = tuple(
        event_types.message_posted(make_id("msg"), message.role, message.content, None, command.by)
        for message in command.input
    )
    requested = event_types.generation_requested(
        command.generation,
        model=command.model,
        workflow=command.workflow,
        input=command.value,
        parameters=command.parameters,
        tools=command.tools,
        steering=command.steering,
        on_crash=command.on_crash or "fail",
        if_running=command.if_running,
        ephemeral=command.ephemeral,
        budget=_bounds(command.budget),
        by=command.by,
    )
    return (*messages, requested)


def decide_cancel(state: Conversation, command: CancelGeneration) -> tuple[NewEvent, ...]:
    """The `generation.cancelled`; no event where it has ended already, for cancelling is idempotent. 404."""
    found = state.generation(command.generation)
    if found is None:
        raise not_found("generation")
    if found.ended:
        return ()
    return (event_types.generation_cancelled(command.generation, command.reason, command.by),)


def decide_steering(
    state: Conversation, command: SteerGeneration, workflow: Workflow | None
) -> tuple[NewEvent, ...]:
    """A `steering.changed`. `workflow` declares what may be steered; None: nothing may.

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
    return (event_types.steering_changed(found.id, command.name, value, command.by),)


def _bounds(budget: Budget | None) -> dict[str, float]:
    if budget is None:
        return {}
    bounds = {"tokens": budget.tokens, "cost": budget.cost}
    return {name: limit for name, limit in bounds.items() if limit is not None}


def decide_budget(state: Conversation, command: RaiseBudget) -> tuple[NewEvent, ...]:
    """A `budget.raised`, whether the run waits for it or not.

    `Problem` 404; 409 `generation_ended`, `no_budget`; 422 `invalid_budget`: a bound that would not be higher than
    now, or not higher than what was used already.
    """
    found = _running(state, command.generation)
    budget = found.budget
    if budget is None:
        raise Problem(
            409, "no_budget", f"The generation {found.id} has no budget, so nothing of it can be raised."
        )
    for name, wanted in (("tokens", command.tokens), ("cost", command.cost)):
        if wanted is None:
            continue
        present = budget.tokens if name == "tokens" else budget.cost
        used = budget.used if budget.reached == name else None
        if present is None:
            raise _invalid_budget(name, "this generation has no such bound, so it cannot be raised")
        least = max(present, used or 0)
        if wanted <= least:
            raise _invalid_budget(
                name, f"it has to be more than {least:g}, which is the bound or was used already"
            )
    return (event_types.budget_raised(found.id, command.tokens, command.cost, command.by),)


def _invalid_budget(name: str, why: str) -> Problem:
    return Problem(422, "invalid_budget", f"{name}: {why}.", extra={"field": name})


def decide_on_call(
    state: Conversation,
    command: DecideCall,
    now: datetime,
    check: ArgumentCheck,
) -> tuple[NewEvent, ...]:
    """A `tool.decided`; a `tool.approval` where more people have to approve the call.

    `now` is the store's time; `check` is asked about modified arguments alone.

    `Problem` 403 `another_person_required`; 404; 409 `generation_ended`, `no_decision_needed`, `already_decided`,
    `already_approved`, `digest_mismatch`, `decision_expired`; 422.
    """
    found = _running(state, command.generation)
    call = _call(found, command.call)
    _check_decidable(call, command, now)
    if command.decision != "rejected":
        _check_person(found, call, command)
    arguments, its_digest = dict(call.arguments), call.arguments_digest
    if command.arguments is not None:
        arguments = check(call, command.arguments)
        try:
            its_digest = digest(arguments)
        except NotCanonical as error:
            raise Problem(422, "invalid_arguments", str(error), extra={"field": "arguments"}) from None
    hidden = find_hidden_characters(call.name, arguments) if command.arguments is not None else ()
    # Whoever modifies the arguments approves the new ones; earlier approvals were of others, and count no more.
    agreed = its_digest == call.proposed_digest
    approvals = (*call.approvals, command.by) if agreed else (command.by,)
    if command.decision != "rejected" and agreed and command.by in call.approvals:
        raise Problem(
            409,
            "already_approved",
            f"{command.by} has approved the call {call.call} already. {call.approvers} people have to, so another "
            "one is needed.",
        )
    remaining = call.approvers - len(approvals)
    if command.decision != "rejected" and remaining > 0:
        approval = event_types.tool_approval(
            found.id,
            call.call,
            proposed_digest=call.proposed_digest,
            arguments_digest=its_digest,
            remaining=remaining,
            by=command.by,
            arguments=None if agreed else arguments,
            reason=command.reason,
            hidden_characters=() if agreed else hidden,
        )
        return (approval,)
    approved_modification = command.decision == "approved" and call.modified_from is not None
    decided = event_types.tool_decided(
        found.id,
        call.call,
        decision="modified" if approved_modification else command.decision,
        proposed_digest=call.proposed_digest,
        arguments=arguments,
        arguments_digest=its_digest,
        reason=command.reason,
        by=command.by,
        hidden_characters=hidden,
        approvals=approvals if command.decision != "rejected" and call.approvers > 1 else (),
    )
    return (decided,)


def _check_decidable(call: ToolCall, command: DecideCall, now: datetime) -> None:
    """Raises `Problem` 409, 422 where nobody may decide so on the call now, whoever it is."""
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
            "proposed_digest is not that of the arguments to decide on. Show them again, and decide on what "
            "was seen.",
            extra={"arguments_digest": call.proposed_digest},
        )
    if call.expires_at is not None and now >= call.expires_at:
        raise Problem(
            409, "decision_expired", f"The time to decide on the call {call.call} was over at {call.expires_at}."
        )
    if (command.decision == "modified") != (command.arguments is not None):
        raise Problem(
            422,
            "invalid_request",
            "arguments: they belong to the decision modified, and to no other.",
            extra={"field": "arguments"},
        )


def _check_person(found: Generation, call: ToolCall, command: DecideCall) -> None:
    """Raises `Problem` 403 `another_person_required` where this person may not approve the call.

    Who may not approve a call may still reject it: then nothing runs.
    """
    if command.by == ANONYMOUS and call.approvers > 1:
        raise Problem(
            403,
            "another_person_required",
            f"{call.approvers} people have to approve the call {call.call}, and who is anonymous cannot be told "
            "apart from others. Make a key for each of them (tokentape keys create), and approve with those. "
            "Rejecting it is possible.",
        )
    if call.another_person and command.by == found.by:
        why = (
            "and everybody is anonymous here. Make a key for each person (tokentape keys create)."
            if command.by == ANONYMOUS
            else "and that was you."
        )
        raise Problem(
            403,
            "another_person_required",
            f"The call {call.call} has to be approved by another person than the one who asked for the "
            f"generation, {why} Rejecting it is possible.",
        )


def decide_result(state: Conversation, command: FinishCall) -> tuple[NewEvent, ...]:
    """A `tool.finished`, for a call that a client ran.

    `Problem` 404; 409 `generation_ended`, `already_finished`; `not_started`: nobody may run the call yet, or it is
    the server that runs it.
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
    return (event_types.tool_finished(found.id, call.call, command.outcome, command.by),)


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
