"""`decide(state, command)`: the events that a command leads to, or the `Problem` that refuses it. Pure.

First come the commands on a conversation, then those on a running generation.

The state may be outdated when the events are appended. The store catches that: the append names the position or
the writer that the decision rests on. Two people may decide on one tool call at the same moment: both pass here,
on the same state. The store takes one append, because both claim the same key (`key_scopes.DECISION`,
`key_scopes.OUTCOME`).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from eventstore import NewEvent
from server import event_types
from server.conversations.command_types import (
    CancelGeneration,
    DecideCall,
    FinishCall,
    PostMessage,
    RequestGeneration,
    StartConversation,
    SteerGeneration,
)
from server.conversations.conversation_state import Conversation, Generation, ToolCall
from server.conversations.state_machine import CallStatus
from server.hidden_characters import find_hidden_characters
from server.ids import new_id
from server.problem import Problem, not_found
from server.workflows import BadValue, NotCanonical, UnknownParameter, Workflow, digest

MOST_QUEUED = 100
"""How many generations of one conversation may be queued or running."""

ArgumentCheck = Callable[[ToolCall, Mapping[str, Any]], dict[str, Any]]
"""Checks arguments against the tool of a call, and adds the defaults. Raises `Problem` 422."""


def start_conversation(command: StartConversation) -> tuple[NewEvent, ...]:
    """A `conversation.started`. Never refused."""
    return (event_types.conversation_started(command.title, command.metadata),)


def post_message(command: PostMessage) -> tuple[NewEvent, ...]:
    """A `message.posted`. Never refused: a message posted while a generation runs is context for the next one."""
    return (
        event_types.message_posted(command.message, command.role, command.content, command.author, command.by),
    )


def request_generation(
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
    if len(running) >= MOST_QUEUED:
        raise Problem(
            409,
            "queue_full",
            f"{MOST_QUEUED} generations of this conversation have not ended, which is the most. Wait for one, or "
            "cancel one.",
            extra={"limit": MOST_QUEUED},
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
        by=command.by,
    )
    return (*messages, requested)


def cancel_generation(state: Conversation, command: CancelGeneration) -> tuple[NewEvent, ...]:
    """The `generation.cancelled`; no event where it has ended already, for cancelling is idempotent. 404."""
    found = state.generation(command.generation)
    if found is None:
        raise not_found("generation")
    if found.ended:
        return ()
    return (event_types.generation_cancelled(command.generation, command.reason, command.by),)


def steer_generation(
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


def decide_call(
    state: Conversation,
    command: DecideCall,
    now: datetime,
    check: ArgumentCheck,
) -> tuple[NewEvent, ...]:
    """A `tool.decided`. `now` is the store's time; `check` is asked about modified arguments alone.

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
    decided = event_types.tool_decided(
        found.id,
        call.call,
        decision=command.decision,
        proposed_digest=call.proposed_digest,
        arguments=arguments,
        arguments_digest=its_digest,
        reason=command.reason,
        by=command.by,
        hidden_characters=find_hidden_characters(call.name, arguments) if command.arguments is not None else (),
    )
    return (decided,)


def finish_call(state: Conversation, command: FinishCall) -> tuple[NewEvent, ...]:
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
