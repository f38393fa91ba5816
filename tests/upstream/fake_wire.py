"""The bytes of a fake provider's answer, and the steps that a behaviour is made of.

Owns OpenAI's chunks as the fake sends them, their framing, and what a behaviour may look at; Anthropic's are
`fake_anthropic`'s. Pure; must not know which behaviours there are.
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


class Wire(Protocol):
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
    wire: Wire

    @property
    def wants_usage(self) -> bool:
        return bool(self.body.get("stream_options", {}).get("include_usage"))


def words(count: int) -> list[str]:
    """The tokens of a behaviour that sends `count` of them."""
    return [f"t{i} " for i in range(count)]


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return json.dumps({**head, "choices": [choice], **more}).encode()


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def framed(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}


def contents(*contents: str) -> list[bytes]:
    return [event(chunk({"content": content})) for content in contents]


class OpenAIWire:
    """Chunks of OpenAI's chat completions."""

    def role(self) -> bytes:
        return event(chunk({"role": "assistant"}))

    def content(self, text: str | None) -> bytes:
        return event(chunk({"content": text}))

    def thought(self, text: str) -> bytes:
        return event(chunk({"reasoning_content": text}))

    def call(self, index: int, id: str, name: str) -> bytes:
        function = {"name": name, "arguments": ""}
        return event(chunk({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}))

    def arguments(self, index: int, text: str) -> bytes:
        return event(chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]}))

    def finish(self, reason: str, count: int | None = None) -> bytes:
        return event(chunk({}, reason, **({} if count is None else {"usage": usage(count)})))

    def ending(self, request: Request, count: int, reason: str = "stop") -> bytes:
        told = event(json.dumps({"choices": [], "usage": usage(count)}).encode())
        return self.finish(reason) + (told if request.wants_usage else b"") + self.done()

    def done(self) -> bytes:
        return event(b"[DONE]")

    def error(self, message: str, kind: str) -> bytes:
        return event(self.problem(message, kind))

    def problem(self, message: str, kind: str) -> bytes:
        return json.dumps({"error": {"message": message, "type": kind, "code": None}}).encode()


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


def status(wire: Wire, code: int, message: str = "the fake says no", kind: str = "fake", head: str = "") -> Send:
    body = wire.problem(message, kind)
    lines = f"HTTP/1.1 {code} Fake\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    return Send(lines.encode() + body, last=True)
