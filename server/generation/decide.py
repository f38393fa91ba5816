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


def start_conversation(command: StartConversation) -> tuple[NewEvent, ...]:
    """Always stands."""
    return (events.conversation_started(command.title, command.metadata),)


def post_message(command: PostMessage) -> tuple[NewEvent, ...]:
    """Always stands, also while a generation runs: it is context then."""
    return (events.message_posted(command.message, command.role, command.content, command.author, command.by),)


def request_generation(
    state: Conversation, command: RequestGeneration, make_id: Callable[[str], str] = new_id
) -> tuple[NewEvent, ...]:
    """The input as messages, then the request. 409 `generation_running` while another one runs."""
    running = state.running
    if running is not None:
        raise Problem(
            409,
            "generation_running",
            f"Generation {running.id} of this conversation is still {running.status}. "
            "Wait for its end, or cancel it, then ask again.",
            extra={"generation": running.id},
        )
    said = tuple(
        events.message_posted(make_id("msg"), message.role, message.content, None, command.by)
        for message in command.input
    )
    requested = events.generation_requested(command.generation, command.model, command.parameters, command.by)
    return (*said, requested)


def cancel_generation(state: Conversation, command: CancelGeneration) -> tuple[NewEvent, ...]:
    """The cancellation; nothing when the generation has ended already, for cancelling is idempotent."""
    found = state.generation(command.generation)
    if found is None:
        raise not_found("generation")
    if found.ended:
        return ()
    return (events.generation_cancelled(command.generation, command.reason, command.by),)
