"""The request of OpenAI's chat completions, as each server of the format wants it.

Owns the body: messages with what the provider wants back in its own form, tools, the client's parameters under the
names that the server knows. What differs is asked of `quirks`; what is read is `chat`'s. Pure: must not know HTTP.
Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .bodies import NOTHING, encoded, refuse
from .carry import OPENAI, carried, own_id
from .errors import BadParameters
from .model import Message, Prompt, ToolCall, ToolSpec
from .quirks import SIGNED, Quirks
from .turns import is_result, sent_arguments, turns

__all__ = ["encode_body"]

_OURS = ("model", "messages", "stream")
_LIMITS = ("max_tokens", "max_completion_tokens")
_SHORT = re.compile(r"[a-zA-Z0-9]{9}")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DEFAULT = Quirks()


def encode_body(prompt: Prompt, quirks: Quirks = DEFAULT) -> bytes:
    """The request's JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    refuse(prompt, _OURS)
    n = prompt.parameters.get("n", 1)
    if type(n) is not int or n != 1:
        raise BadParameters("parameters.n", "must be 1: a generation is one answer")
    body: dict[str, Any] = {"model": prompt.model, "messages": _messages(prompt, quirks), "stream": True}
    if not body["messages"]:
        raise BadParameters("input", NOTHING)
    if quirks.asks_usage:
        body["stream_options"] = {"include_usage": True}
    if prompt.tools:  # an empty list would be refused (400)
        body["tools"] = [_tool(tool) for tool in prompt.tools]
    parameters = _parameters(prompt.parameters, quirks)
    if parameters.get("stream_options", body) is None:
        del parameters["stream_options"]
        body.pop("stream_options", None)
    return encoded(body, parameters)


def _parameters(given: Mapping[str, Any], quirks: Quirks) -> dict[str, Any]:
    parameters = dict(given)
    options = parameters.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadParameters("parameters.stream_options", "must be an object, or null to leave it out")
    if quirks.max_tokens:
        for name in _LIMITS:
            if name in parameters and name != quirks.max_tokens:
                limit = parameters.pop(name)
                parameters.setdefault(quirks.max_tokens, limit)
    return parameters


def _messages(prompt: Prompt, quirks: Quirks) -> list[dict[str, Any]]:
    said = [each for each in prompt.messages if quirks.blank_messages or not _is_blank(each)]
    ids = _ids(said, quirks)
    return [_message(message, ids, quirks) for turn in turns(said) for message in turn]


def _is_blank(message: Message) -> bool:
    return not (message.content.strip() or message.calls or is_result(message))


def _ids(messages: list[Message], quirks: Quirks) -> dict[str, str]:
    """What each call is called in this request, by our id: the provider's own id where it gave one that serves."""
    ids: dict[str, str] = {}
    for message in messages:
        given = [own_id(call, OPENAI) for call in message.calls]
        count = Counter(given)
        for call, id in zip(message.calls, given, strict=True):
            # Two calls of one turn with one id: their results could not be told apart.
            own = id if id is not None and count[id] == 1 else call.id
            ids[call.id] = own if quirks.call_ids == "any" or _SHORT.fullmatch(own) else _short(own)
    return ids


def _short(id: str) -> str:
    digest = hashlib.sha256(id.encode(errors="replace")).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:9])


def _message(message: Message, ids: Mapping[str, str], quirks: Quirks) -> dict[str, Any]:
    if is_result(message):
        call = message.call or ""
        return {"role": "tool", "tool_call_id": ids.get(call, call), "content": message.content}
    role = message.role
    if role == "tool":
        # What somebody posted as `tool` answers no call. It would be refused (400), and with it every later prompt
        # of its conversation, so it goes as a user's, word for word.
        role = "user"
    elif role == "developer" and not quirks.developer:
        role = "system"
    sent: dict[str, Any] = {"role": role, "content": message.content}
    if message.calls:
        sent["content"] = message.content or (None if quirks.null_content else "")
        sent["tool_calls"] = [_called(call, ids[call.id], quirks) for call in message.calls]
    kept = carried(message.carry, OPENAI)
    return {**sent, **{name: value for name, value in kept.items() if name in quirks.takes_back}}


def _called(call: ToolCall, id: str, quirks: Quirks) -> dict[str, Any]:
    function = {"name": call.name, "arguments": sent_arguments(call)}
    kept = carried(call.carry, OPENAI)
    signed = {name: kept[name] for name in SIGNED if name in kept and name in quirks.takes_back}
    return {"id": id, "type": "function", "function": function, **signed}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
