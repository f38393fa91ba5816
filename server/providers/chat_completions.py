"""OpenAI's chat completions: the request body, and the meaning of a streamed chunk.

The body is encoded as each server of the format wants it; `openai_compatible_servers` holds the differences.
Chunks are read leniently, because many servers took over the format and differ in details: a field of unexpected
shape counts as absent, and the chunk's other fields are read all the same. Pure: must not know HTTP or time;
`decoding.answer_decoder` makes chunks of bytes.
Sources: https://platform.openai.com/docs/api-reference/chat/create and
https://platform.openai.com/docs/api-reference/chat-streaming; of images
https://platform.openai.com/docs/guides/images-vision, and of PDFs, which are the only files that this API takes,
https://developers.openai.com/api/docs/guides/file-inputs
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from server.message_parts import FilePart, Part, TextPart
from server.providers.decoding.answer_accumulator import AnswerAccumulator, UnknownMessage
from server.providers.decoding.answer_decoder import StreamFormat
from server.providers.decoding.carried_fields import OPENAI, CarriedReasoning, provider_call_id, read_carried
from server.providers.decoding.error_mapping import find_error, stream_error
from server.providers.decoding.finish_reasons import NOT_YET
from server.providers.decoding.redaction import Redactor
from server.providers.decoding.tool_call_assembly import index_in

from .interface import BadParameters, Message, Prompt, ToolCall, ToolSpec
from .openai_compatible_servers import SIGNED, Quirks
from .request_encoding import (
    NOTHING_TO_ANSWER,
    PDF,
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

_SET_BY_SERVER = ("model", "messages", "stream")
_LIMITS = ("max_tokens", "max_completion_tokens")
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DEFAULT = Quirks()


def encode_body(prompt: Prompt, quirks: Quirks = DEFAULT) -> bytes:
    """The request body as JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    check_parameters(prompt, _SET_BY_SERVER)
    check_files(prompt, (*quirks.images, PDF) if quirks.pdfs else quirks.images)
    n = prompt.parameters.get("n", 1)
    if type(n) is not int or n != 1:
        raise BadParameters("parameters.n", "must be 1: a generation is one answer")
    body: dict[str, Any] = {"model": prompt.model, "messages": _encode_messages(prompt, quirks), "stream": True}
    if not body["messages"]:
        raise BadParameters("input", NOTHING_TO_ANSWER)
    if quirks.asks_usage:
        body["stream_options"] = {"include_usage": True}
    if prompt.tools:  # an empty list would be refused (400)
        body["tools"] = [_encode_tool(tool) for tool in prompt.tools]
    parameters = _renamed_parameters(prompt.parameters, quirks)
    if parameters.get("stream_options", body) is None:
        del parameters["stream_options"]
        body.pop("stream_options", None)
    return encode_json(body, parameters)


def _renamed_parameters(given: Mapping[str, Any], quirks: Quirks) -> dict[str, Any]:
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


def _encode_messages(prompt: Prompt, quirks: Quirks) -> list[dict[str, Any]]:
    kept = [each for each in prompt.messages if quirks.blank_messages or not _is_blank(each)]
    ids = _call_ids(kept, quirks)
    return [_encode_message(message, ids, quirks) for turn in group_turns(kept) for message in turn]


def _is_blank(message: Message) -> bool:
    return not (message.text.strip() or message.files or message.calls or is_tool_result(message))


def _call_ids(messages: list[Message], quirks: Quirks) -> dict[str, str]:
    """The id of each call in this request, by our own id: the provider's id if it gave one that can be used."""
    ids: dict[str, str] = {}
    for message in messages:
        given = [provider_call_id(call, OPENAI) for call in message.calls]
        count = Counter(given)
        for call, id in zip(message.calls, given, strict=True):
            # If two calls of one message had the same id, their results could not be told apart.
            own = id if id is not None and count[id] == 1 else call.id
            ids[call.id] = own if quirks.call_ids == "any" or _SHORT_ID.fullmatch(own) else _short_id(own)
    return ids


def _short_id(id: str) -> str:
    digest = hashlib.sha256(id.encode(errors="replace")).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:9])


def _encode_message(message: Message, ids: Mapping[str, str], quirks: Quirks) -> dict[str, Any]:
    if is_tool_result(message):
        call = message.call or ""
        return {"role": "tool", "tool_call_id": ids.get(call, call), "content": message.text}
    role = message.role
    if role == "tool":
        # A message that a client posted as `tool` answers no call. The provider would refuse it (400), and with it
        # every later request of the conversation. So it is sent as a user's message, word for word.
        role = "user"
    elif role == "developer" and not quirks.developer:
        role = "system"
    sent: dict[str, Any] = {"role": role, "content": _encode_content(message)}
    if message.calls:
        sent["content"] = message.text or (None if quirks.null_content else "")
        sent["tool_calls"] = [_encode_call(call, ids[call.id], quirks) for call in message.calls]
    kept = read_carried(message.carry, OPENAI)
    return {**sent, **{name: value for name, value in kept.items() if name in quirks.takes_back}}


def _encode_content(message: Message) -> str | list[dict[str, Any]]:
    """A text wherever there is no file: many servers of the format take no list, and only OpenAI's users' messages
    may be one."""
    if isinstance(message.content, str) or not message.files:
        return message.text
    return [_encode_part(part) for part in message.content if not isinstance(part, TextPart) or part.text.strip()]


def _encode_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if is_text_file(part):
        return {"type": "text", "text": f"{part.title}:\n\n{text_of_file(part)}"}
    url = base64_of_file(part, f"data:{part.media_type};base64,")
    if part.media_type != PDF:
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": _pdf_name(part), "file_data": url}}


def _pdf_name(part: FilePart) -> str:
    name = part.name or "file"
    return name if name.lower().endswith(".pdf") else f"{name}.pdf"  # OpenAI tells the type by it


def _encode_call(call: ToolCall, id: str, quirks: Quirks) -> dict[str, Any]:
    function = {"name": call.name, "arguments": sent_arguments(call)}
    kept = read_carried(call.carry, OPENAI)
    signed = {name: kept[name] for name in SIGNED if name in kept and name in quirks.takes_back}
    return {"id": id, "type": "function", "function": function, **signed}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


class _Delta(msgspec.Struct, gc=False):
    """A piece of the message; in a body that is no stream, the whole message."""

    content: Any = None
    reasoning_content: Any = None  # the name at DeepSeek, older vLLM and others
    reasoning: Any = None  # at OpenRouter, Ollama, Groq and newer vLLM; some send both fields with the same text
    reasoning_details: Any = None  # OpenRouter's
    refusal: Any = None
    tool_calls: Any = None
    extra_content: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None
    usage: Any = None  # Kimi sends the usage here
    error: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None
    base_resp: Any = None


def _read_chunk(chunk: _Chunk, answer: AnswerAccumulator, redact: Redactor) -> None:
    if chunk.error or chunk.base_resp is not None:
        error = find_error({"error": chunk.error, "base_resp": chunk.base_resp, "choices": [0]})
        if error is not None:
            raise stream_error(error, redact)
    if chunk.usage is not None:
        answer.count_usage(_usage(chunk.usage))
    if isinstance(chunk.x_groq, dict):
        if chunk.x_groq.get("error"):
            raise stream_error(chunk.x_groq["error"], redact)
        answer.count_usage(_usage(chunk.x_groq.get("usage")))
    if chunk.choices:
        for choice in _own_choices(chunk.choices, answer):
            _read_choice(choice, answer, redact)
    elif chunk.choices is None and chunk.usage is None and chunk.x_groq is None:
        raise UnknownMessage("neither choices nor usage")


def _own_choices(choices: list[_Choice], answer: AnswerAccumulator) -> list[_Choice]:
    """The choices that belong to the answer, where a server sends several that nobody asked for.

    A single choice always belongs to it, whatever its index: some servers use the index to count the chunks
    (Foundry Local, older text-generation-inference).
    """
    if answer.choice is None:
        answer.choice = 0 if choices[0].index is None else choices[0].index
    if len(choices) == 1:
        return choices
    return [choice for choice in choices if choice.index is None or choice.index == answer.choice]


def _read_choice(choice: _Choice, answer: AnswerAccumulator, redact: Redactor) -> None:
    if choice.error:
        raise stream_error(choice.error, redact)
    if choice.usage is not None:
        answer.count_usage(_usage(choice.usage))
    delta = choice.delta or choice.message
    if delta is not None:
        _read_delta(delta, answer)
    if isinstance(choice.finish_reason, str) and choice.finish_reason.lower() not in NOT_YET:
        answer.end(choice.finish_reason)


def _read_delta(delta: _Delta, answer: AnswerAccumulator) -> None:
    # Reasoning is read before the text: a chunk that holds both ends the one and begins the other.
    name = "reasoning" if delta.reasoning_content is None else "reasoning_content"
    reasoning = delta.reasoning if delta.reasoning_content is None else delta.reasoning_content
    if delta.reasoning_details is not None and not reasoning:
        reasoning = _details_text(delta.reasoning_details)
    if isinstance(reasoning, str):
        answer.add_reasoning(reasoning)
    if delta.reasoning_details:
        answer.started = True  # possibly encrypted: nothing to show, but it is paid for
    if answer.carried is not None:
        _carry(delta, name, reasoning, answer.carried)
    if isinstance(delta.content, str):
        answer.add_text(delta.content)
    elif isinstance(delta.content, list | dict):
        _read_parts(delta.content if isinstance(delta.content, list) else [delta.content], answer)
    if isinstance(delta.refusal, str):
        answer.add_refusal(delta.refusal)
    if isinstance(delta.tool_calls, list):
        for call in delta.tool_calls:
            if isinstance(call, dict):
                _read_call(call, answer)
            elif call is not None:
                answer.lose_piece()
    elif delta.tool_calls:
        answer.lose_piece()


def _carry(delta: _Delta, name: str, reasoning: Any, carried: Any) -> None:
    assert isinstance(carried, CarriedReasoning)
    if isinstance(reasoning, str) and getattr(delta, name) is not None:
        carried.reasoning(name, reasoning)
    carried.details(delta.reasoning_details)
    carried.extra("extra_content", delta.extra_content)


def _details_text(details: Any) -> str:
    """The reasoning in OpenRouter's details, for servers that send it nowhere else."""
    texts = (
        each.get("text") or each.get("summary")
        for each in (details if isinstance(details, list) else ())
        if isinstance(each, dict)
    )
    return "".join(text for text in texts if isinstance(text, str))


def _read_call(call: dict[str, Any], answer: AnswerAccumulator) -> None:
    sent, index = call.get("function"), index_in(call.get("index"))
    function = sent if isinstance(sent, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict | list):  # some servers send the arguments as a JSON value
        arguments = json.dumps(arguments)
    answer.add_call(index, _text(call.get("id")), _text(function.get("name")), _text(arguments))
    if not isinstance(sent, dict | None) or not isinstance(arguments, str | None):
        answer.lose_piece(index)
    signed = {name: call[name] for name in SIGNED if call.get(name)}
    if signed and answer.carried is not None:
        answer.reserve(len(str(signed)))
        answer.add_call_fields(signed)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read_parts(parts: list[Any], answer: AnswerAccumulator) -> None:
    """Content as a list of parts. The texts of one chunk become one text; Mistral's reasoning is a part too."""
    texts = _texts(parts)
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "thinking":
            thinking = part.get("thinking")
            answer.add_reasoning(thinking if isinstance(thinking, str) else "".join(_texts(thinking)))
    if texts:
        answer.add_text("".join(texts))


def _texts(parts: Any) -> list[str]:
    if not isinstance(parts, list):
        return []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]


def _usage(usage: Any) -> dict[str, Any]:
    if not isinstance(usage, dict):
        return {}
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    for name in ("prompt_cache_hit_tokens", "cached_tokens"):  # at DeepSeek and Kimi
        cached = usage.get(name) if cached is None else cached
    return {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "cached_input_tokens": cached,
        "reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens"),
    }


def _detail(usage: dict[str, Any], group: str, name: str) -> Any:
    details = usage.get(group)
    return details.get(name) if isinstance(details, dict) else None


def _drop_invalid(value: Any) -> Any:
    """The chunk without the values that stand where an object should."""
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list):
        raise UnknownMessage("no list of choices", lost=bool(choices))
    kept = [choice for choice in choices if isinstance(choice, dict)]
    for choice in kept:
        for name in ("delta", "message"):
            if not isinstance(choice.get(name), dict):
                choice[name] = None
    return {**value, "choices": kept}


CHAT_COMPLETIONS = StreamFormat(
    OPENAI,
    msgspec.json.Decoder(_Chunk),
    _read_chunk,
    CarriedReasoning,
    closes_calls=False,
    drop_invalid=_drop_invalid,
)
