"""The transcript of a conversation: its messages and answers in one order, and the prompt made of them.

Decides which answers a model is told of, and where each stands. Must not know how a provider writes a prompt.
Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.conversations.command_types import NewMessage
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.conversation_state import Message as PostedMessage
from server.conversations.state_machine import Status
from server.message_parts import Content, text_of
from server.providers import Message, Prompt, ToolSpec

_TOLD_TO_MODELS = frozenset({Status.COMPLETED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class TranscriptMessage:
    """A message, or an answer, of a conversation, as `Run.context` gives it to a workflow.

    `role`: `user`, `assistant`, `system` or `tool`. `content`: a text, or the parts of which a message was made:
    `TextPart`, `ImagePart`, `FilePart`. `position`: where the message stands in the log; of an answer, where it
    was requested, or where it took the message after which these words of it come. `author`: a name to show; `by`:
    who posted the message, as the server knows it. An answer has neither.
    """

    role: str
    content: Content
    position: int
    author: str | None = None
    by: str | None = None

    @property
    def text(self) -> str:
        """The text, or the texts of the parts joined by blank lines."""
        return text_of(self.content)


def transcript(
    state: Conversation, without: str | None = None, until: int | None = None
) -> tuple[TranscriptMessage, ...]:
    """All messages and answers, in order. `without`: the id of a generation to leave out, with all messages that
    are put into it. `until`: what was posted or requested behind this position is left out.

    An answer stands where it was requested, so messages posted while it ran come after it. A message that was put
    into an answer stands within it, between what the model said before and after. A cancelled answer is part of
    the transcript, for people saw it and go on from there. A failed answer is not: people ask again, and the
    messages that were put into it stand where they were posted. The words of a refusal are an answer; reasoning is
    not.
    """
    last = state.position if until is None else until
    told = [
        found
        for found in state.generations
        if found.status in _TOLD_TO_MODELS and found.id != without and found.requested_position <= last
    ]
    inside = {applied.message: found for found in told for applied in found.applied}
    posted = [message for message in state.messages if message.position <= last]
    placed = [
        (message.position, 0, _posted(message))
        for message in posted
        if message.id not in inside and not (without is not None and message.into == without)
    ]
    by_id = {message.id: message for message in posted if message.id in inside}
    for found in told:
        placed += [(found.requested_position, n, one) for n, one in enumerate(_answer(found, by_id))]
    return tuple(one for _, _, one in sorted(placed, key=lambda each: each[:2]))


def _posted(message: PostedMessage) -> TranscriptMessage:
    return TranscriptMessage(message.role, message.content, message.position, message.author, message.by)


def _answer(found: Generation, messages: dict[str, PostedMessage]) -> Iterator[TranscriptMessage]:
    """An answer in pieces, with the messages that were put into it between them, which leave `messages`."""
    position, written = found.requested_position, 0
    for applied in found.applied:
        if said := found.text[written : applied.text_length]:
            yield TranscriptMessage("assistant", said, position)
        if (message := messages.pop(applied.message, None)) is not None:
            yield _posted(message)
        position, written = applied.position, max(written, applied.text_length)
    if said := found.text[written:] or (found.refusal or "" if not found.text else ""):
        yield TranscriptMessage("assistant", said, position)


def prompt_for(
    state: Conversation,
    model: str,
    parameters: Mapping[str, Any],
    *,
    more: Sequence[NewMessage] = (),
    tools: tuple[ToolSpec, ...] = (),
    without: str | None = None,
    until: int | None = None,
) -> Prompt:
    """The transcript as a prompt for `model`. `more`: messages after it that are not in the log yet."""
    messages = [Message(one.role, one.content) for one in transcript(state, without, until)]
    messages += [Message(new.role, new.content) for new in more]
    return Prompt(model, tuple(messages), parameters, tools=tools)


@dataclass(frozen=True, slots=True)
class FirstPrompt:
    """What an answer is asked at first.

    `position`: what was said up to there is in it. `waiting`: the messages that are to be put into the answer and
    that it has not taken yet, the oldest first; they are not in the prompt.
    """

    prompt: Prompt
    position: int
    waiting: tuple[PostedMessage, ...] = ()


def first_prompt(
    state: Conversation,
    found: Generation,
    model: str,
    *,
    tools: tuple[ToolSpec, ...] = (),
    until: int | None = None,
) -> FirstPrompt:
    """What the generation's answer is asked at first. `until`: as of this position, which an earlier attempt
    used."""
    prompt = prompt_for(state, model, found.parameters, tools=tools, without=found.id, until=until)
    present = state.generation(found.id)
    taken = {applied.message for applied in present.applied} if present is not None else set()
    # Only what is behind the request can be for this generation: the newest messages, mostly none.
    waiting = [
        message
        for message in state.messages_since(found.requested_position)
        if message.into == found.id and message.id not in taken
    ]
    return FirstPrompt(prompt, state.position if until is None else until, tuple(waiting))
