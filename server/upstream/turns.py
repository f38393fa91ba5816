"""The turns of a prompt in which tools were called, as strict providers want them.

Owns where the results of calls stand, and what is sent of a call's arguments. Pure: must not know wire formats.
A prompt is there for good: what a provider refuses in it once, it refuses in every later turn, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec

from .model import Message, ToolCall

__all__ = ["is_result", "sent_arguments", "turns"]

_OBJECT = msgspec.json.Decoder(dict[str, Any])


def is_result(message: Message) -> bool:
    """Whether it is the result of a call; a message that somebody posted as `tool` is not."""
    return message.role == "tool" and message.call is not None


def turns(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Messages by turns, oldest first: the assistant's and everybody else's, in which results stand first.

    Providers refuse a turn whose calls the very next message does not answer, and while a tool runs, somebody may
    have posted a message.
    """
    for _, group in groupby(messages, key=lambda message: message.role == "assistant"):
        yield sorted(group, key=lambda message: not is_result(message))


def sent_arguments(call: ToolCall) -> str:
    """The arguments as the model wrote them, if they are a JSON object; else `{}`.

    Anthropic's format has no place for anything else, and what OpenAI takes as any text, vLLM, llama.cpp and
    Ollama parse. What was wrong with them is for the call's result to say.
    """
    try:
        _OBJECT.decode(call.arguments)
    except (ValueError, RecursionError):
        return "{}"
    return call.arguments
