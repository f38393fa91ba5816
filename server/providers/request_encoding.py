"""What the request bodies of all providers have in common.

Owns the checks of a prompt that every adapter makes, the order of messages around tool calls, the encoding of
files and of JSON, and `ProviderRequest`, one encoded body. Strict providers set the rules: a prompt is stored, so
whatever a provider refuses in it once, it refuses in every later request of that conversation as well.
Pure: must not know any provider's field names, nor HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import msgspec

from server.message_parts import FilePart

from .interface import BadParameters, Message, Prompt, ToolCall

PNG, JPEG, WEBP, GIF, PDF = "image/png", "image/jpeg", "image/webp", "image/gif", "application/pdf"
NOTHING_TO_ANSWER = "there is nothing to answer: give an input, or post a message first"
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class ProviderRequest:
    """The body of one request, and what follows if the provider refuses it. This base class never changes it."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def revise(self, status: int, response_body: bytes) -> bool:
        """Whether to send the request again after this refusal; `body` is then another one."""
        return False

    def accepted(self) -> None:
        """The provider has accepted the request: what was revised can be remembered."""


def check_parameters(prompt: Prompt, set_by_server: Collection[str]) -> None:
    """Raise `BadParameters` (the client's fault) for a parameter that the server sets, or without a message."""
    if "tools" in prompt.parameters:  # it would replace the prompt's own tools, whose calls the server executes
        raise BadParameters("parameters.tools", "is no parameter: give `tools` beside `parameters`")
    for name in set_by_server:
        if name in prompt.parameters:
            raise BadParameters(f"parameters.{name}", "is set by the server and must not be given")
    if not prompt.messages:
        raise BadParameters("input", NOTHING_TO_ANSWER)


def check_files(prompt: Prompt, taken: Collection[str]) -> None:
    """Raise `BadParameters` (the client's fault), which names the part, for a file that the provider would refuse.

    `taken`: the media types of files that it takes. It takes text files too: those are sent as text.
    """
    for place, message in enumerate(prompt.messages):
        for number, part in enumerate(message.content if isinstance(message.content, tuple) else ()):
            if isinstance(part, FilePart) and (wrong := _why_refused(part, message.role, taken)) is not None:
                raise BadParameters(f"messages.{place}.content.{number}", wrong, (place, number))


def _why_refused(part: FilePart, role: str, taken: Collection[str]) -> str | None:
    if role != "user":
        return f"images and files belong to messages of the role user, not {role}"
    if part.media_type in taken or is_text_file(part):
        return None
    types = ", ".join([*taken, "text"])
    return f"{part.title} is {part.media_type}; of files, this model's provider takes {types}"


def is_text_file(part: FilePart) -> bool:
    """Whether the file is text, which every model can read."""
    return part.media_type.startswith("text/")


def text_of_file(part: FilePart) -> str:
    """The text of a text file. One without any word says so: providers refuse a blank text."""
    text = (part.data or b"").decode(errors="replace").removeprefix("\ufeff")
    return text if text.strip() else "(This file holds no text.)"


def base64_of_file(part: FilePart, before: str = "") -> msgspec.Raw:
    """The bytes of a file in base64 (RFC 4648 section 4), as a JSON string; `before` it an ASCII text.

    Raw, because nothing in it needs an escape: to look for one in 27 MB would hold up all other answers.
    """
    return msgspec.Raw(b'"%b%b"' % (before.encode(), base64.b64encode(part.data or b"")))


def encode_json(body: Mapping[str, Any], parameters: Mapping[str, Any]) -> bytes:
    """The body and the client's parameters as one JSON object. Raises `BadParameters` (the client's fault)."""
    try:
        return msgspec.json.encode({**body, **parameters})
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameters("parameters", "must be JSON without unpaired surrogates") from error


def is_tool_result(message: Message) -> bool:
    """Whether the message is the result of a call. A message that a client posted as `tool` is not."""
    return message.role == "tool" and message.call is not None


def group_turns(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """The messages grouped by turn, oldest first: the assistant's turns, and between them all other messages.

    In a turn, tool results come first: while a tool ran, somebody may have posted a message, and providers refuse
    a request in which the result does not follow the call directly.
    """
    for _, group in groupby(messages, key=lambda message: message.role == "assistant"):
        yield sorted(group, key=lambda message: not is_tool_result(message))


def sent_arguments(call: ToolCall) -> str:
    """The arguments as the model wrote them if they are a JSON object, otherwise `{}`.

    Anthropic's format has no place for anything but an object. OpenAI accepts any text, but vLLM, llama.cpp and
    Ollama parse it. The result of the call tells the model what was wrong with its arguments.
    """
    try:
        _OBJECT.decode(call.arguments)
    except (ValueError, RecursionError):
        return "{}"
    return call.arguments
