"""The provider `anthropic/<model>`: Anthropic, and every server with Anthropic's messages API.

Owns the settings and their defaults, the path and the headers; the request body, with turns that alternate and an
assistant's blocks in their original order; the meaning of a streamed event, and which blocks are collected for the
next request. Events, blocks and deltas of unknown type are skipped, as the provider asks its clients to do, and so
is a field of unexpected shape. Must not know sockets; `decoding.answer_decoder` makes events of bytes. Sources:
https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/docs/build-with-claude/streaming; of
images https://platform.claude.com/docs/en/build-with-claude/vision, of PDFs
https://platform.claude.com/docs/en/build-with-claude/pdf-support, and of documents of text
https://platform.claude.com/docs/en/build-with-claude/citations
"""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from pydantic import Field

from server.message_parts import Part, TextPart
from server.providers.decoding.answer_accumulator import AnswerAccumulator, UnknownMessage
from server.providers.decoding.answer_decoder import StreamFormat
from server.providers.decoding.carried_fields import ANTHROPIC, CarriedBlocks, blocks_of, provider_call_id
from server.providers.decoding.error_mapping import find_error, stream_error
from server.providers.decoding.redaction import Redactor
from server.providers.decoding.tool_call_assembly import index_in

from .http_provider import HttpProvider, ProviderSettings
from .interface import BadParameters, Message, Prompt
from .request_encoding import (
    GIF,
    JPEG,
    NOTHING_TO_ANSWER,
    PDF,
    PNG,
    WEBP,
    ProviderRequest,
    base64_of_file,
    check_files,
    check_parameters,
    encode_json,
    group_turns,
    is_text_file,
    is_tool_result,
    sent_arguments,
    text_of_file,
)

_SET_BY_SERVER = ("model", "messages", "stream", "system")
_SYSTEM = ("system", "developer")
_FILES = (PNG, JPEG, WEBP, GIF, PDF)


def encode_body(prompt: Prompt, max_tokens: int) -> bytes:
    """The request body as JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    check_parameters(prompt, _SET_BY_SERVER)
    check_files(prompt, _FILES)
    body: dict[str, Any] = {"model": prompt.model, "max_tokens": max_tokens, "stream": True}
    # The provider refuses a blank text (400), and with it every later request of the conversation.
    kept = [
        message
        for message in prompt.messages
        if message.text.strip() or message.files or _has_tool_blocks(message)
    ]
    system = [message.text for message in kept if message.role in _SYSTEM]
    if system:
        body["system"] = "\n\n".join(system)
    ids = {call.id: provider_call_id(call, ANTHROPIC) or call.id for message in kept for call in message.calls}
    # Turns alternate, because stricter servers of this format require it; Anthropic joins turns the same way.
    body["messages"] = [
        _encode_turn(turn, ids) for turn in group_turns(each for each in kept if each.role not in _SYSTEM)
    ]
    if not body["messages"]:
        raise BadParameters("input", NOTHING_TO_ANSWER)
    if prompt.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
            for tool in prompt.tools
        ]
    return encode_json(body, prompt.parameters)


def _has_tool_blocks(message: Message) -> bool:
    return bool(message.calls) or is_tool_result(message)


def _encode_turn(turn: list[Message], ids: Mapping[str, str]) -> dict[str, Any]:
    role = "assistant" if turn[0].role == "assistant" else "user"
    if len(turn) == 1 and not (_has_tool_blocks(turn[0]) or turn[0].files or turn[0].carry is not None):
        return {"role": role, "content": turn[0].text}
    return {"role": role, "content": [block for message in turn for block in _encode_blocks(message, ids)]}


def _encode_blocks(message: Message, ids: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    if is_tool_result(message):
        call = message.call or ""
        result = {"type": "tool_result", "tool_use_id": ids.get(call, call)}
        yield {**result, "content": message.text} if message.text.strip() else result
        return
    if message.files and not isinstance(message.content, str):
        yield from (_encode_part(part) for part in message.content if not _is_blank(part))
        return
    # Raw, so that numbers keep every digit that the model wrote.
    inputs = [msgspec.Raw(sent_arguments(call).encode()) for call in message.calls]
    yield from blocks_of(
        message,
        [
            {"type": "tool_use", "id": ids[call.id], "name": call.name, "input": given}
            for call, given in zip(message.calls, inputs, strict=True)
        ],
    )


def _is_blank(part: Part) -> bool:
    return isinstance(part, TextPart) and not part.text.strip()


def _encode_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if is_text_file(part):
        source: dict[str, Any] = {"type": "text", "media_type": "text/plain", "data": text_of_file(part)}
    else:
        source = {"type": "base64", "media_type": part.media_type, "data": base64_of_file(part)}
    if part.media_type.startswith("image/"):
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, **({"title": part.name} if part.name is not None else {})}


_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_PIECES = {  # the field with the text, by the type of a delta
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


class _Event(msgspec.Struct):
    """Any event. An event of unknown type may hold anything, so only the fields of known types are looked at."""

    type: Any = ""
    index: Any = None
    message: Any = None
    content_block: Any = None
    delta: Any = None
    usage: Any = None
    error: Any = None
    content: Any = None  # this and the next one: a whole message, from a server that cannot stream
    stop_reason: Any = None


def _read_event(event: _Event, answer: AnswerAccumulator, redact: Redactor) -> None:
    kind = event.type
    if kind == "content_block_delta":  # nearly all events are, so this is tested first
        _read_delta(event, answer)
    elif kind == "error" or event.error:
        raise stream_error(find_error({"type": "error", "error": event.error}), redact)
    elif kind == "message_start":
        _read_usage(_dict(event.message).get("usage"), answer)
    elif kind == "content_block_start":
        _read_block(event.index, _dict(event.content_block), answer)
    elif kind == "content_block_stop":
        answer.close_call(index_in(event.index))
        if isinstance(answer.carried, CarriedBlocks):
            answer.carried.close(index_in(event.index))
    elif kind == "message_delta":
        _read_usage(event.usage, answer)
        _read_end(_dict(event.delta).get("stop_reason"), answer)
    elif kind == "message_stop":
        answer.closed = True
    elif kind == "message":
        _read_message(event, answer)
    elif kind != "ping":
        raise UnknownMessage("a type that nobody knows")


def _read_delta(event: _Event, answer: AnswerAccumulator) -> None:
    delta = _dict(event.delta)
    kind = delta.get("type")
    name = _PIECES.get(kind) if isinstance(kind, str) else None
    text = delta.get(name, "") if name is not None else None
    if name is None or not isinstance(text, str):
        if name is not None or not isinstance(kind, str):
            raise UnknownMessage("a delta of no known shape", lost=True)
        return  # citations, and types to come
    index = index_in(event.index)
    if name == "text":
        answer.add_text(text)
    elif name == "thinking":
        answer.add_reasoning(text)
    elif name == "partial_json":
        answer.add_arguments(index, text)
    else:
        answer.started = True  # a signature: the reasoning may be hidden, but it is paid for
    if isinstance(answer.carried, CarriedBlocks):
        answer.carried.grow(index, name, text)


def _read_block(index: Any, block: dict[str, Any], answer: AnswerAccumulator) -> None:
    place, kind = index_in(index), block.get("type")
    if not isinstance(kind, str):
        raise UnknownMessage("a block without a type")
    if isinstance(answer.carried, CarriedBlocks):
        answer.carried.begin(place, block)
    text = _text(block.get("text" if kind == "text" else "thinking"))
    if kind == "text" and text:  # usually empty: then it is no chunk of text
        answer.add_text(text)
        if isinstance(answer.carried, CarriedBlocks):
            answer.carried.grow(place, "text", text)
    elif kind == "thinking":
        answer.add_reasoning(text)
    elif kind == "tool_use":  # not `server_tool_use`, which the provider executes itself
        # Compact like the streamed arguments. For a tool without arguments no piece is streamed.
        given = block.get("input")
        default = json.dumps(_dict(given), separators=(",", ":"))
        answer.add_call(place, _text(block.get("id")), _text(block.get("name")), "", default)
        if given and not isinstance(given, dict):
            answer.lose_piece(place)
    elif kind != "text":
        answer.started = True  # redacted reasoning, or a tool that the provider executes


def _read_message(event: _Event, answer: AnswerAccumulator) -> None:
    """Reads a whole message that came instead of a stream."""
    for index, block in enumerate(event.content if isinstance(event.content, list) else ()):
        if isinstance(block, dict):
            _read_block(index, block, answer)
            answer.close_call(index)
            if isinstance(answer.carried, CarriedBlocks):
                answer.carried.close(index)
    _read_usage(event.usage, answer)
    _read_end(event.stop_reason, answer)


def _read_end(reason: Any, answer: AnswerAccumulator) -> None:
    if isinstance(reason, str) and reason:
        answer.end(reason)


def _read_usage(usage: Any, answer: AnswerAccumulator) -> None:
    """Reads the counts so far; the last one of each counts. Input read from or written to the cache is added."""
    counts = _dict(usage)
    counted = answer.counts
    counted |= {name: counts[name] for name in _COUNTS if type(counts.get(name)) is int and counts[name] >= 0}
    answer.count_usage(
        {
            "output_tokens": counted.get("output_tokens"),
            "cached_input_tokens": counted.get("cache_read_input_tokens"),
            "reasoning_tokens": _dict(counts.get("output_tokens_details")).get("thinking_tokens"),
        }
    )
    if "input_tokens" in counted:
        answer.count_usage(
            {"input_tokens": sum(counted.get(name, 0) for name in _COUNTS if name != "output_tokens")}
        )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _drop_invalid(value: Any) -> Any:
    raise UnknownMessage("no object")


ANTHROPIC_MESSAGES = StreamFormat(
    ANTHROPIC,
    msgspec.json.Decoder(_Event),
    _read_event,
    CarriedBlocks,
    closes_calls=True,
    drop_invalid=_drop_invalid,
)


class AnthropicSettings(ProviderSettings):
    """`base_url` has the form of ANTHROPIC_BASE_URL: without `/v1`.

    `version`: the header `anthropic-version`. `max_tokens`: sent if the client gives none, because the API
    requires it.
    """

    base_url: str = "https://api.anthropic.com"
    version: str = Field("2023-06-01", pattern=r"\A[\x21-\x7e]+\z")
    max_tokens: int = Field(4096, ge=1)


class Anthropic(HttpProvider):
    """A `Provider` for Anthropic's messages API."""

    path = "/v1/messages"
    stream_format = ANTHROPIC_MESSAGES

    def __init__(
        self,
        settings: AnthropicSettings,
        *,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """As `HttpProvider`."""
        super().__init__(settings, context=context, rng=rng)
        self._version = settings.version
        self._max_tokens = settings.max_tokens

    def _headers(self) -> Mapping[str, str]:
        key = self._settings.key
        return {"anthropic-version": self._version, **({"x-api-key": key} if key else {})}

    def _encode_request(self, prompt: Prompt) -> ProviderRequest:
        return ProviderRequest(encode_body(prompt, self._max_tokens))
