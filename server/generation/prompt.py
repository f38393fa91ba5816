"""The prompt of a generation: the conversation's history, in one order, as it stood at the request. Pure."""

from server.generation.commands import RequestGeneration
from server.generation.state import Conversation
from server.generation.states import Status
from server.upstream import Message, Prompt

_KEPT = frozenset({Status.COMPLETED, Status.CANCELLED})


def prompt_for(state: Conversation, command: RequestGeneration, model: str) -> Prompt:
    """All that was said, oldest first, then the request's own input; an answer stands where it was asked for.

    A cancelled answer's text is kept, for people saw it and go on from there; a failed one's is not, for it
    is asked for again.
    """
    turns = [(message.position, message.role, message.content) for message in state.messages]
    turns += [
        (found.requested_position, "assistant", found.text)
        for found in state.generations
        if found.status in _KEPT and found.text
    ]
    messages = [Message(role, content) for _, role, content in sorted(turns)]
    messages += [Message(said.role, said.content) for said in command.input]
    return Prompt(model, tuple(messages), command.parameters)
