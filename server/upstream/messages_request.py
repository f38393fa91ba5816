"""The request of Anthropic's messages.

Owns the body: turns that alternate, an assistant's blocks in the order in which they came, tools. What is read is
`messages`'. Pure: must not know HTTP.
Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .bodies import NOTHING, encoded, refuse
from .carry import ANTHROPIC, blocks_of, own_id
from .errors import BadParameters
from .model import Message, Prompt
from .turns import is_result, sent_arguments, turns

__all__ = ["encode_body"]

_OURS = ("model", "messages", "stream", "system")
_SYSTEM = ("system", "developer")


def encode_body(prompt: Prompt, max_tokens: int) -> bytes:
    """The request's JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    refuse(prompt, _OURS)
    body: dict[str, Any] = {"model": prompt.model, "max_tokens": max_tokens, "stream": True}
    # A text of nothing but blanks would be refused (400), and with it every later prompt of its conversation.
    said = [message for message in prompt.messages if message.content.strip() or _is_of_tools(message)]
    system = [message.content for message in said if message.role in _SYSTEM]
    if system:
        body["system"] = "\n\n".join(system)
    ids = {call.id: own_id(call, ANTHROPIC) or call.id for message in said for call in message.calls}
    # Turns that alternate, as stricter servers of this format want it; Anthropic joins them the same way.
    body["messages"] = [_turn(turn, ids) for turn in turns(each for each in said if each.role not in _SYSTEM)]
    if not body["messages"]:
        raise BadParameters("input", NOTHING)
    if prompt.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
            for tool in prompt.tools
        ]
    return encoded(body, prompt.parameters)


def _is_of_tools(message: Message) -> bool:
    return bool(message.calls) or is_result(message)


def _turn(turn: list[Message], ids: Mapping[str, str]) -> dict[str, Any]:
    role = "assistant" if turn[0].role == "assistant" else "user"
    if len(turn) == 1 and not _is_of_tools(turn[0]) and turn[0].carry is None:
        return {"role": role, "content": turn[0].content}
    return {"role": role, "content": [block for message in turn for block in _blocks(message, ids)]}


def _blocks(message: Message, ids: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    if is_result(message):
        call = message.call or ""
        result = {"type": "tool_result", "tool_use_id": ids.get(call, call)}
        yield {**result, "content": message.content} if message.content.strip() else result
        return
    # The arguments digit by digit as the model wrote them.
    inputs = [msgspec.Raw(sent_arguments(call).encode()) for call in message.calls]
    yield from blocks_of(
        message,
        [
            {"type": "tool_use", "id": ids[call.id], "name": call.name, "input": given}
            for call, given in zip(message.calls, inputs, strict=True)
        ],
    )
