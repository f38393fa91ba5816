"""OpenAI's chat completions as they are streamed, by OpenAI and by the many servers that took over its format.

Owns the meaning of a streamed chunk, leniently where servers differ: a field of a shape that nobody expected is as
good as none, and takes nothing of the chunk's other fields with it. What is sent is `chat_request`'s. Pure: must
not know HTTP or time; what a chunk's bytes are is `decoder`'s. Source:
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .carry import OPENAI, ReasoningKeeper
from .decoder import Wire
from .draft import Draft, Unknown
from .finish_reasons import NOT_YET
from .quirks import SIGNED
from .refusals import error_in, stream_error
from .toolcalls import index_in
from .wording import Quoter

__all__ = ["CHAT"]


class _Delta(msgspec.Struct, gc=False):
    """A piece of the message; in a body that is no stream, all of it."""

    content: Any = None
    reasoning_content: Any = None  # DeepSeek's name, older vLLM's and others'
    reasoning: Any = None  # OpenRouter's, Ollama's, Groq's and newer vLLM's; some send both, with the same text
    reasoning_details: Any = None  # OpenRouter's
    refusal: Any = None
    tool_calls: Any = None
    extra_content: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None
    usage: Any = None  # Kimi's place for it
    error: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None
    base_resp: Any = None


def _read(chunk: _Chunk, draft: Draft, quote: Quoter) -> None:
    if chunk.error or chunk.base_resp is not None:
        error = error_in({"error": chunk.error, "base_resp": chunk.base_resp, "choices": [0]})
        if error is not None:
            raise stream_error(error, quote)
    if chunk.usage is not None:
        draft.spend(_usage(chunk.usage))
    if isinstance(chunk.x_groq, dict):
        if chunk.x_groq.get("error"):
            raise stream_error(chunk.x_groq["error"], quote)
        draft.spend(_usage(chunk.x_groq.get("usage")))
    if chunk.choices:
        for choice in _ours(chunk.choices, draft):
            _read_choice(choice, draft, quote)
    elif chunk.choices is None and chunk.usage is None and chunk.x_groq is None:
        raise Unknown("neither choices nor usage")


def _ours(choices: list[_Choice], draft: Draft) -> list[_Choice]:
    """Those of the answer, of several that nobody asked for. One alone is always its own.

    For some servers count chunks by the index (Foundry Local, older text-generation-inference).
    """
    if draft.choice is None:
        draft.choice = 0 if choices[0].index is None else choices[0].index
    if len(choices) == 1:
        return choices
    return [choice for choice in choices if choice.index is None or choice.index == draft.choice]


def _read_choice(choice: _Choice, draft: Draft, quote: Quoter) -> None:
    if choice.error:
        raise stream_error(choice.error, quote)
    if choice.usage is not None:
        draft.spend(_usage(choice.usage))
    delta = choice.delta or choice.message
    if delta is not None:
        _read_delta(delta, draft)
    if isinstance(choice.finish_reason, str) and choice.finish_reason.lower() not in NOT_YET:
        draft.end(choice.finish_reason)


def _read_delta(delta: _Delta, draft: Draft) -> None:
    # A chunk that holds both ends the thoughts and begins the text.
    name = "reasoning" if delta.reasoning_content is None else "reasoning_content"
    thought = delta.reasoning if delta.reasoning_content is None else delta.reasoning_content
    if delta.reasoning_details is not None and not thought:
        thought = _details_text(delta.reasoning_details)
    if isinstance(thought, str):
        draft.think(thought)
    if delta.reasoning_details:
        draft.spoke = True  # maybe encrypted: nothing to show, but it is paid for
    if draft.keeper is not None:
        _keep(delta, name, thought, draft.keeper)
    if isinstance(delta.content, str):
        draft.text(delta.content)
    elif isinstance(delta.content, list | dict):
        _read_parts(delta.content if isinstance(delta.content, list) else [delta.content], draft)
    if isinstance(delta.refusal, str):
        draft.refuse(delta.refusal)
    if isinstance(delta.tool_calls, list):
        for call in delta.tool_calls:
            if isinstance(call, dict):
                _read_call(call, draft)
            elif call is not None:
                draft.lose()
    elif delta.tool_calls:
        draft.lose()


def _keep(delta: _Delta, name: str, thought: Any, keeper: Any) -> None:
    assert isinstance(keeper, ReasoningKeeper)
    if isinstance(thought, str) and getattr(delta, name) is not None:
        keeper.reasoning(name, thought)
    keeper.details(delta.reasoning_details)
    keeper.extra("extra_content", delta.extra_content)


def _details_text(details: Any) -> str:
    """The thoughts in OpenRouter's details, where nothing else tells them."""
    texts = (
        each.get("text") or each.get("summary")
        for each in (details if isinstance(details, list) else ())
        if isinstance(each, dict)
    )
    return "".join(text for text in texts if isinstance(text, str))


def _read_call(call: dict[str, Any], draft: Draft) -> None:
    told, index = call.get("function"), index_in(call.get("index"))
    function = told if isinstance(told, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict | list):  # servers that write it whole
        arguments = json.dumps(arguments)
    draft.call(index, _text(call.get("id")), _text(function.get("name")), _text(arguments))
    if not isinstance(told, dict | None) or not isinstance(arguments, str | None):
        draft.lose(index)
    signed = {name: call[name] for name in SIGNED if call.get(name)}
    if signed and draft.keeper is not None:
        draft.hold(len(str(signed)))
        draft.extra(signed)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read_parts(parts: list[Any], draft: Draft) -> None:
    """Content in parts: the text of one chunk stays one text; Mistral's thinking is a part, too."""
    texts = _texts(parts)
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "thinking":
            thinking = part.get("thinking")
            draft.think(thinking if isinstance(thinking, str) else "".join(_texts(thinking)))
    if texts:
        draft.text("".join(texts))


def _texts(parts: Any) -> list[str]:
    if not isinstance(parts, list):
        return []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]


def _usage(usage: Any) -> dict[str, Any]:
    if not isinstance(usage, dict):
        return {}
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    for name in ("prompt_cache_hit_tokens", "cached_tokens"):  # DeepSeek's, Kimi's
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


def _mended(value: Any) -> Any:
    """A chunk without what stands where an object should."""
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list):
        raise Unknown("no list of choices", lost=bool(choices))
    kept = [choice for choice in choices if isinstance(choice, dict)]
    for choice in kept:
        for name in ("delta", "message"):
            if not isinstance(choice.get(name), dict):
                choice[name] = None
    return {**value, "choices": kept}


CHAT = Wire(OPENAI, msgspec.json.Decoder(_Chunk), _read, ReasoningKeeper, closes_calls=False, mended=_mended)
