"""The wire format of OpenAI's chat completions, as vLLM, Ollama, llama.cpp and others speak it.

Owns the request's body and the decoding of the streamed chunks into text, finish and failure, leniently where
servers differ. Pure: must not know HTTP or time; bytes in, strings out. `refusal` and `tool_calls` are read over.
Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .errors import BadParameters, UpstreamError
from .eventstream import EventStream, MessageTooLong
from .model import Finish, Prompt
from .surrogates import REPLACEMENT, Repair
from .wording import Quoter, message_in

__all__ = ["ChatDecoder", "encode_body"]

_OURS = ("model", "messages", "stream", "stream_options")
_MAX_REASON = 64  # characters


def encode_body(prompt: Prompt) -> bytes:
    """The request's JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    for name in _OURS:
        if name in prompt.parameters:
            raise BadParameters(f"parameters.{name}", "is set by the server and must not be given")
    n = prompt.parameters.get("n", 1)
    if type(n) is not int or n != 1:
        raise BadParameters("parameters.n", "must be 1: a generation is one answer")
    if not prompt.messages:
        raise BadParameters("input", "there is nothing to answer: give an input, or post a message first")
    body = {
        "model": prompt.model,
        "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **prompt.parameters,
    }
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameters("parameters", "must be JSON without unpaired surrogates") from error


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class ChatDecoder:
    """One answer's decoder: feed the body's bytes as they come, then `close`.

    Wants more bytes while both `finish` and `failure` are None; `finishing`: the finish reason has come.
    """

    def __init__(self, quote: Quoter) -> None:
        self.finish: Finish | None = None
        self.failure: UpstreamError | None = None
        self.finishing = False
        self.heard = False  # at least one message of an event stream came
        self._quote = quote
        self._stream = EventStream()
        self._repair = Repair()
        self._broken_utf8 = 0
        self._reason = ""
        self._usage: dict[str, int] | None = None

    @property
    def repaired(self) -> int:
        return self._repair.repaired + self._broken_utf8

    def feed(self, data: bytes) -> list[str]:
        """The text of every content chunk that these bytes complete; then look at `finish` and `failure`."""
        too_long = None
        try:
            messages = self._stream.feed(data)
        except MessageTooLong as error:
            messages, too_long = error.messages, error
        texts: list[str] = []
        for message in messages:
            self.heard = True
            if message.data == b"[DONE]":
                return texts + self._finish()
            try:
                self._chunk(message.data, texts)
            except UpstreamError as error:
                return texts + self._fail(error)
        if too_long:
            return texts + self._fail(UpstreamError("upstream_malformed", str(too_long)))
        return texts

    def close(self, error: UpstreamError) -> list[str]:
        """No more bytes, for this reason: a finish if its reason has come, else the failure. Maybe a last text."""
        return self._finish() if self.finishing else self._fail(error)

    def _finish(self) -> list[str]:
        self.finish = Finish(self._reason or "stop", self._usage)
        return self._last()

    def _fail(self, error: UpstreamError) -> list[str]:
        self.failure = error
        return self._last()

    def _last(self) -> list[str]:
        held = self._repair.end()
        return [held] if held else []

    def _chunk(self, data: bytes, texts: list[str]) -> None:
        chunk = self._decode(data)
        if chunk.error is not None:
            raise stream_error(chunk.error, self._quote)
        if chunk.choices is None and chunk.usage is None:
            raise self._malformed("neither choices nor usage", data)
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage) or self._usage
        if chunk.choices:
            choice = chunk.choices[0]
            if choice.delta is not None and choice.delta.content is not None:
                texts.append(self._repair.feed(choice.delta.content))
            if choice.finish_reason:
                self.finishing = True
                self._reason = self._quote(choice.finish_reason, _MAX_REASON)

    def _decode(self, data: bytes) -> _Chunk:
        try:
            return _decoder.decode(data)
        except msgspec.ValidationError as error:
            raise self._malformed(str(error), data) from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._decode_broken(data)
        except RecursionError as error:
            raise self._malformed("too deeply nested", data) from error

    def _decode_broken(self, data: bytes) -> _Chunk:
        """A chunk that msgspec refuses: half a surrogate pair or broken UTF-8 can be repaired, the rest cannot."""
        try:
            text = data.decode(errors="replace")  # as the WHATWG rules decode an event stream
            chunk = msgspec.convert(json.loads(text), _Chunk)
        except (ValueError, RecursionError) as error:
            raise self._malformed("no JSON", data) from error
        self._broken_utf8 += text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())
        return chunk

    def _malformed(self, what: str, data: bytes) -> UpstreamError:
        return UpstreamError("upstream_malformed", f"a chunk is malformed ({what}): {self._quote(data, 200)}")


def stream_error(error: Any, quote: Quoter) -> UpstreamError:
    """The error for an `error` object inside the stream; it says by code or type whether it may pass."""
    said = quote(message_in(error) or json.dumps(error))
    code, kind = (error.get("code"), error.get("type")) if isinstance(error, dict) else (None, None)
    refused = isinstance(code, int) and 400 <= code < 500 and code not in (408, 409, 429)
    refused = refused or "invalid_request_error" in (code, kind) or "insufficient_quota" in (code, kind)
    return UpstreamError("upstream_error", f"the provider stopped the answer: {said}", retryable=not refused)


def _usage(usage: Any) -> dict[str, int] | None:
    if not isinstance(usage, dict):
        return None
    names = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    counts = {ours: usage.get(theirs) for ours, theirs in names.items()}
    found = {name: count for name, count in counts.items() if type(count) is int and count >= 0}
    return found if len(found) == len(names) else None
