"""The bytes of a fake provider's answer, and the steps that a behaviour is made of.

Owns OpenAI's chunks as the fake sends them, their framing, and what a behaviour may look at. Pure; must not know
which behaviours there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


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
CHUNKED = STREAM_HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """What a behaviour may look at; `turn`: how many requests with this very body came before."""

    body: dict[str, Any]
    authorization: str
    turn: int

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


def ending(request: Request, count: int) -> bytes:
    body = event(chunk({}, "stop"))
    if request.wants_usage:
        body += event(json.dumps({"choices": [], "usage": usage(count)}).encode())
    return body + event(b"[DONE]")


ROLE = event(chunk({"role": "assistant"}))


def answer(request: Request, bodies: list[bytes], count: int | None = None) -> Iterator[Step]:
    """A whole answer whose tokens come in these bodies, each in a packet of its own."""
    yield Send(CHUNKED + framed(ROLE))
    yield from (Send(framed(body), tokens=1) for body in bodies)
    yield Send(framed(ending(request, len(bodies) if count is None else count)) + b"0\r\n\r\n", last=True)


def begin(count: int) -> Iterator[Step]:
    """The head and so many tokens, and no end."""
    yield Send(CHUNKED + framed(ROLE if count else b""))
    yield from (Send(framed(event(chunk({"content": word}))), tokens=1) for word in words(count))


def contents(*contents: str) -> list[bytes]:
    return [event(chunk({"content": content})) for content in contents]


def status(code: int, message: str = "the fake says no", kind: str = "fake", headers: str = "") -> Iterator[Step]:
    body = json.dumps({"error": {"message": message, "type": kind, "code": None}}).encode()
    head = (
        f"HTTP/1.1 {code} Fake\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    yield Send(head.encode() + body, last=True)
