"""`decide(state, command)`: the events a command leads to, or the `Problem` why it does not. Pure.

What is decided on a state that has moved since is caught by the store: the append names the position, or the
writer, that the decision rests on.
"""

from collections.abc import Callable

from eventstore import NewEvent
from server import events
from server.errors import Problem, not_found
from server.generation.commands import CancelGeneration, PostMessage, RequestGeneration, StartConversation
from server.generation.state import Conversation
from server.ids import new as new_id

MOST_QUEUED = 100
"""Generations of one conversation that have not ended."""


def start_conversation(command: StartConversation) -> tuple[NewEvent, ...]:
    """Always stands."""
    return (events.conversation_started(command.title, command.metadata),)


def post_message(command: PostMessage) -> tuple[NewEvent, ...]:
    """Always stands, also while a generation runs: it is context then."""
    return (events.message_posted(command.message, command.role, command.content, command.author, command.by),)


def request_generation(
    state: Conversation, command: RequestGeneration, make_id: Callable[[str], str] = new_id
) -> tuple[NewEvent, ...]:
    """The input as messages, then the request.

    While another one runs: 409 `generation_running`, unless the command queues (409 `queue_full`, at a bound).
    One that interrupts is decided again when those it cancelled have ended.
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
    said = tuple(
        events.message_posted(make_id("msg"), message.role, message.content, None, command.by)
        for message in command.input
    )
    requested = events.generation_requested(
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
    return (*said, requested)


def cancel_generation(state: Conversation, command: CancelGeneration) -> tuple[NewEvent, ...]:
    """The cancellation; nothing when the generation has ended already, for cancelling is idempotent."""
    found = state.generation(command.generation)
    if found is None:
        raise not_found("generation")
    if found.ended:
        return ()
    return (events.generation_cancelled(command.generation, command.reason, command.by),)
