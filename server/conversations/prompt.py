"""The transcript of a conversation: its messages and answers in one order, and the prompt made of them.

Decides which answers a model is told of, and where each stands. Must not know how a provider writes a prompt.
Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.conversations.command_types import NewMessage
from server.conversations.conversation_state import Conversation
from server.conversations.state_machine import Status
from server.providers import Message, Prompt, ToolSpec

_TOLD_TO_MODELS = frozenset({Status.COMPLETED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class TranscriptMessage:
    """A message, or an answer, of a conversation, as `Run.context` gives it to a workflow.

    `role`: `user`, `assistant`, `system` or `tool`. `position`: where the message stands in the log; of an answer,
    where it was requested. `author`: a name to show; `by`: who posted the message, as the server knows it. An
    answer has neither.
    """

    role: str
    content: str
    position: int
    author: str | None = None
    by: str | None = None


def transcript(state: Conversation, without: str | None = None) -> tuple[TranscriptMessage, ...]:
    """All messages and answers, by position. `without`: the id of a generation to leave out.

    An answer stands where it was requested, so messages posted while it ran come after it. A cancelled answer is
    part of the transcript, for people saw it and go on from there. A failed answer is not: people ask again. The
    words of a refusal are an answer; reasoning is not.
    """
    messages = [
        TranscriptMessage(message.role, message.content, message.position, message.author, message.by)
        for message in state.messages
    ]
    messages += [
        TranscriptMessage("assistant", said, found.requested_position)
        for found in state.generations
        if found.status in _TOLD_TO_MODELS and found.id != without and (said := found.text or found.refusal)
    ]
    return tuple(sorted(messages, key=lambda message: message.position))


def prompt_for(
    state: Conversation,
    model: str,
    parameters: Mapping[str, Any],
    *,
    more: Sequence[NewMessage] = (),
    tools: tuple[ToolSpec, ...] = (),
    without: str | None = None,
) -> Prompt:
    """The transcript as a prompt for `model`. `more`: messages after it that are not in the log yet."""
    messages = [Message(one.role, one.content) for one in transcript(state, without)]
    messages += [Message(new.role, new.content) for new in more]
    return Prompt(model, tuple(messages), parameters, tools=tools)
