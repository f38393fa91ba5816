"""The bytes of a fake provider's answer in OpenAI's and Anthropic's wire format, and the steps of a behaviour.

Owns the events of both formats, their framing, and what a behaviour may look at. Pure; must not know which
behaviours there are. In Anthropic's events the text stands in block 0, reasoning in block 100, tool calls in the
blocks from 200 on: the client must heed the index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Send:
    """Bytes for one `send`; `tokens` of them in it; `last`: nothing that the client needs comes after it."""

    data: bytes
    tokens: int = 0
    last: bool = False


@dataclass(frozen=True)
class Pause:
    seconds: float


class Hang:
    """Wait for the client to close."""


class Reset:
    """Close with a RST instead of a FIN."""


Step = Send | Pause | Hang | Reset
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"  # of a chunked body; a connection whose answer ended with it can be used again


class WireFormat(Protocol):
    """A provider's wire format, as complete events of the stream."""

    def role(self) -> bytes:
        """What comes before all text."""

    def content(self, text: str | None) -> bytes:
        """A chunk of text."""

    def thought(self, text: str) -> bytes:
        """A chunk of reasoning."""

    def call(self, index: int, id: str, name: str) -> bytes:
        """The beginning of a tool call."""

    def arguments(self, index: int, text: str) -> bytes:
        """A piece of its arguments."""

    def finish(self, reason: str, count: int | None = None) -> bytes:
        """The finish reason, and the usage in the same event if `count` is given."""

    def ending(self, request: Request, count: int, reason: str = "stop") -> bytes:
        """All that comes after the text."""

    def done(self) -> bytes:
        """The last event."""

    def error(self, message: str, kind: str) -> bytes:
        """An error inside the stream."""

    def problem(self, message: str, kind: str) -> bytes:
        """The body of an error response."""


@dataclass(frozen=True)
class Request:
    """What a behaviour may look at; `turn`: how many requests with this very body came before."""

    body: dict[str, Any]
    authorization: str
    turn: int
    wire: WireFormat

    @property
    def wants_usage(self) -> bool:
        return bool(self.body.get("stream_options", {}).get("include_usage"))


def words(count: int) -> list[str]:
    """The tokens of a behaviour that sends `count` of them."""
    return [f"t{i} " for i in range(count)]


def openai_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return json.dumps({**head, "choices": [choice], **more}).encode()


def sse_event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def framed(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}


def contents(*contents: str) -> list[bytes]:
    return [sse_event(openai_chunk({"content": content})) for content in contents]


class OpenAIFormat:
    """Chunks of OpenAI's chat completions."""

    def role(self) -> bytes:
        return sse_event(openai_chunk({"role": "assistant"}))

    def content(self, text: str | None) -> bytes:
        return sse_event(openai_chunk({"content": text}))

    def thought(self, text: str) -> bytes:
        return sse_event(openai_chunk({"reasoning_content": text}))

    def call(self, index: int, id: str, name: str) -> bytes:
        function = {"name": name, "arguments": ""}
        return sse_event(
            openai_chunk({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
        )

    def arguments(self, index: int, text: str) -> bytes:
        return sse_event(openai_chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]}))

    def finish(self, reason: str, count: int | None = None) -> bytes:
        return sse_event(openai_chunk({}, reason, **({} if count is None else {"usage": usage(count)})))

    def ending(self, request: Request, count: int, reason: str = "stop") -> bytes:
        told = sse_event(json.dumps({"choices": [], "usage": usage(count)}).encode())
        return self.finish(reason) + (told if request.wants_usage else b"") + self.done()

    def done(self) -> bytes:
        return sse_event(b"[DONE]")

    def error(self, message: str, kind: str) -> bytes:
        return sse_event(self.problem(message, kind))

    def problem(self, message: str, kind: str) -> bytes:
        return json.dumps({"error": {"message": message, "type": kind, "code": None}}).encode()


STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def anthropic_event(type: str, **fields: Any) -> bytes:
    """One event, named twice as Anthropic does."""
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def block_delta(index: int, type: str, **fields: Any) -> bytes:
    return anthropic_event("content_block_delta", index=index, delta={"type": type, **fields})


def block_start(index: int, type: str, **fields: Any) -> bytes:
    return anthropic_event("content_block_start", index=index, content_block={"type": type, **fields})


class AnthropicFormat:
    """Events of Anthropic's messages."""

    def role(self) -> bytes:
        usage = {"input_tokens": 7, "output_tokens": 1}
        message = {"id": "msg_fake", "type": "message", "role": "assistant", "content": [], "usage": usage}
        return (
            anthropic_event("message_start", message=message)
            + block_start(0, "text", text="")
            + anthropic_event("ping")
        )

    def content(self, text: str | None) -> bytes:
        return anthropic_event("ping") if text is None else block_delta(0, "text_delta", text=text)

    def thought(self, text: str) -> bytes:
        return block_start(100, "thinking", thinking="", signature="") + (
            block_delta(100, "thinking_delta", thinking=text)
            + block_delta(100, "signature_delta", signature="c2ln")
            + anthropic_event("content_block_stop", index=100)
        )

    def call(self, index: int, id: str, name: str) -> bytes:
        return block_start(200 + index, "tool_use", id=id, name=name, input={}) + self.arguments(index, "")

    def arguments(self, index: int, text: str) -> bytes:
        return block_delta(200 + index, "input_json_delta", partial_json=text)

    def finish(self, reason: str, count: int | None = None) -> bytes:
        usage = {} if count is None else {"usage": {"output_tokens": count}}
        end = {"stop_reason": STOP_REASONS.get(reason, reason), "stop_sequence": None}
        blocks = [0, *(range(200, 204) if reason == "tool_calls" else ())]
        closed = b"".join(anthropic_event("content_block_stop", index=index) for index in blocks)
        return closed + anthropic_event("message_delta", delta=end, **usage)

    def ending(self, request: Request, count: int, reason: str = "stop") -> bytes:
        return self.finish(reason, count) + self.done()

    def done(self) -> bytes:
        return anthropic_event("message_stop")

    def error(self, message: str, kind: str) -> bytes:
        return anthropic_event("error", error={"type": kind, "message": message})

    def problem(self, message: str, kind: str) -> bytes:
        return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


def answer(request: Request, bodies: list[bytes], count: int | None = None) -> Iterator[Step]:
    """A whole answer whose tokens come in these bodies, each in a packet of its own."""
    yield Send(CHUNKED + framed(request.wire.role()))
    yield from (Send(framed(body), tokens=1) for body in bodies)
    ending = request.wire.ending(request, len(bodies) if count is None else count)
    yield Send(framed(ending) + END, last=True)


def whole(request: Request, *texts: str) -> bytes:
    """All events of an answer of these texts."""
    wire = request.wire
    return wire.role() + b"".join(map(wire.content, texts)) + wire.ending(request, len(texts))


def begin(request: Request, count: int) -> Iterator[Step]:
    """The head and so many tokens, and no end."""
    yield Send(CHUNKED + framed(request.wire.role() if count else b""))
    yield from (Send(framed(request.wire.content(word)), tokens=1) for word in words(count))


def status(
    wire: WireFormat, code: int, message: str = "the fake says no", kind: str = "fake", head: str = ""
) -> Send:
    body = wire.problem(message, kind)
    lines = f"HTTP/1.1 {code} Fake\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    return Send(lines.encode() + body, last=True)
