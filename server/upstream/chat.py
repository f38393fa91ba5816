"""The wire format of OpenAI's chat completions, as vLLM, Ollama, llama.cpp and others speak it.

Owns the request's body and the meaning of a streamed chunk, leniently where servers differ. Pure: must not know
HTTP or time; what a chunk's bytes are is `decoder`'s.
Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .bodies import encoded, refuse
from .decoder import Wire
from .draft import Draft, Malformed
from .errors import BadParameters
from .model import Message, Prompt, ToolCall, ToolSpec
from .refusals import stream_error
from .turns import is_result, sent_arguments, turns
from .wording import Quoter

__all__ = ["CHAT", "encode_body"]

_OURS = ("model", "messages", "stream", "stream_options")


def encode_body(prompt: Prompt) -> bytes:
    """The request's JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    refuse(prompt, _OURS)
    n = prompt.parameters.get("n", 1)
    if type(n) is not int or n != 1:
        raise BadParameters("parameters.n", "must be 1: a generation is one answer")
    body: dict[str, Any] = {
        "model": prompt.model,
        "messages": [_message(message) for turn in turns(prompt.messages) for message in turn],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.tools:  # an empty list would be refused (400)
        body["tools"] = [_tool(tool) for tool in prompt.tools]
    return encoded(body, prompt)


def _message(message: Message) -> dict[str, Any]:
    if is_result(message):
        return {"role": "tool", "tool_call_id": message.call, "content": message.content}
    if message.calls:
        calls = [_called(call) for call in message.calls]
        return {"role": message.role, "content": message.content or None, "tool_calls": calls}
    # What somebody posted as `tool` answers no call. It would be refused (400), and with it every later prompt of
    # its conversation, so it goes as a user's, word for word.
    return {"role": "user" if message.role == "tool" else message.role, "content": message.content}


def _called(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": sent_arguments(call)}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # an object where servers write it whole


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: Any = None  # DeepSeek's name, vLLM's and others'
    reasoning: Any = None  # OpenRouter's and Ollama's; some servers send both, with the same text
    refusal: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


def _read(chunk: _Chunk, draft: Draft, quote: Quoter) -> None:
    if chunk.error is not None:
        raise stream_error(chunk.error, quote)
    if chunk.choices is None and chunk.usage is None:
        raise Malformed("neither choices nor usage")
    if chunk.usage is not None:
        draft.spend(_usage(chunk.usage))
    if chunk.choices:
        choice = chunk.choices[0]
        if choice.delta is not None:
            _read_delta(choice.delta, draft)
        if choice.finish_reason:
            draft.end(choice.finish_reason)


def _read_delta(delta: _Delta, draft: Draft) -> None:
    if isinstance(delta.content, str):
        draft.text(delta.content)
    elif delta.content is not None:
        _read_parts(delta.content, draft)
    thought = delta.reasoning if delta.reasoning_content is None else delta.reasoning_content
    if isinstance(thought, str):
        draft.think(thought)
    if isinstance(delta.refusal, str):
        draft.refuse(delta.refusal)
    for call in delta.tool_calls or ():
        function = call.function or _Function()
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        draft.call(call.index, call.id or "", function.name or "", arguments)


def _read_parts(parts: list[Any], draft: Draft) -> None:
    """Content in parts: the text of one chunk stays one text; Mistral's thinking is a part, too."""
    texts = _texts(parts)
    if texts:
        draft.text("".join(texts))
    for part in parts:
        if part.get("type") == "thinking":
            thinking = part.get("thinking")
            draft.think(thinking if isinstance(thinking, str) else "".join(_texts(thinking)))


def _texts(parts: Any) -> list[str]:
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise Malformed("content that is neither text nor parts")
    return [part["text"] for part in parts if isinstance(part.get("text"), str)]


def _usage(usage: Any) -> dict[str, Any]:
    if not isinstance(usage, dict):
        return {}
    return {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "cached_input_tokens": _detail(usage, "prompt_tokens_details", "cached_tokens"),
        "reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens"),
    }


def _detail(usage: dict[str, Any], group: str, name: str) -> Any:
    details = usage.get(group)
    return details.get(name) if isinstance(details, dict) else None


CHAT = Wire(msgspec.json.Decoder(_Chunk), _read)
