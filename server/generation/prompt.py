"""What was said in a conversation, in one order, and the prompt of a generation made of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.generation.commands import Said
from server.generation.state import Conversation
from server.generation.states import Status
from server.upstream import Message, Prompt, ToolSpec

_KEPT = frozenset({Status.COMPLETED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation. `position` is that of the message, or of the request of the answer."""

    role: str
    content: str
    position: int
    author: str | None = None
    by: str | None = None


def turns_of(state: Conversation, but: str | None = None) -> tuple[Turn, ...]:
    """All that was said, oldest first; an answer stands where it was asked for. `but`: a generation to leave out.

    A cancelled answer's text is kept, for people saw it and go on from there; a failed one's is not, for it
    is asked for again. The words of a refusal are an answer, too; what a model thought is not.
    """
    turns = [
        Turn(message.role, message.content, message.position, message.author, message.by)
        for message in state.messages
    ]
    turns += [
        Turn("assistant", said, found.requested_position)
        for found in state.generations
        if found.status in _KEPT and found.id != but and (said := found.text or found.refusal)
    ]
    return tuple(sorted(turns, key=lambda turn: turn.position))


def prompt_for(
    state: Conversation,
    model: str,
    parameters: Mapping[str, Any],
    *,
    more: Sequence[Said] = (),
    tools: tuple[ToolSpec, ...] = (),
    but: str | None = None,
) -> Prompt:
    """The conversation as a prompt; `more` are messages behind it that are not in its log yet."""
    messages = [Message(turn.role, turn.content) for turn in turns_of(state, but)]
    messages += [Message(said.role, said.content) for said in more]
    return Prompt(model, tuple(messages), parameters, tools=tools)
