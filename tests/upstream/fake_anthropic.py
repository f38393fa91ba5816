"""Anthropic's events as the fake sends them.

Owns the bytes of one wire format; the behaviours are `fake_scripts`', the same for every format. Pure. The text
stands in block 0, reasoning in block 100, tool calls in the blocks after 200: the client must heed the index.
"""

from __future__ import annotations

import json
from typing import Any

from .fake_wire import Request

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def happening(type: str, **fields: Any) -> bytes:
    """One event, named twice as Anthropic does."""
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def delta(index: int, type: str, **fields: Any) -> bytes:
    return happening("content_block_delta", index=index, delta={"type": type, **fields})


def block(index: int, type: str, **fields: Any) -> bytes:
    return happening("content_block_start", index=index, content_block={"type": type, **fields})


class AnthropicWire:
    """Events of Anthropic's messages."""

    def role(self) -> bytes:
        usage = {"input_tokens": 7, "output_tokens": 1}
        message = {"id": "msg_fake", "type": "message", "role": "assistant", "content": [], "usage": usage}
        return happening("message_start", message=message) + block(0, "text", text="") + happening("ping")

    def content(self, text: str | None) -> bytes:
        return happening("ping") if text is None else delta(0, "text_delta", text=text)

    def thought(self, text: str) -> bytes:
        return block(100, "thinking", thinking="", signature="") + (
            delta(100, "thinking_delta", thinking=text)
            + delta(100, "signature_delta", signature="c2ln")
            + happening("content_block_stop", index=100)
        )

    def call(self, index: int, id: str, name: str) -> bytes:
        return block(200 + index, "tool_use", id=id, name=name, input={}) + self.arguments(index, "")

    def arguments(self, index: int, text: str) -> bytes:
        return delta(200 + index, "input_json_delta", partial_json=text)

    def finish(self, reason: str, count: int | None = None) -> bytes:
        usage = {} if count is None else {"usage": {"output_tokens": count}}
        end = {"stop_reason": REASONS.get(reason, reason), "stop_sequence": None}
        blocks = [0, *(range(200, 204) if reason == "tool_calls" else ())]
        closed = b"".join(happening("content_block_stop", index=index) for index in blocks)
        return closed + happening("message_delta", delta=end, **usage)

    def ending(self, request: Request, count: int, reason: str = "stop") -> bytes:
        return self.finish(reason, count) + self.done()

    def done(self) -> bytes:
        return happening("message_stop")

    def error(self, message: str, kind: str) -> bytes:
        return happening("error", error={"type": kind, "message": message})

    def problem(self, message: str, kind: str) -> bytes:
        return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
