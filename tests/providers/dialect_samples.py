"""Samples of what servers really send, from the folder `dialects`, each with the answer that it has to give.

`dialects/NAME.body` holds the bytes of a response's body, `NAME.json` next to it what is known and expected:
`about` (what is odd), `wire`, `content_type` (of an event stream unless said), `chunks` (a text is a string, a
piece of reasoning `{"think"}`, a piece of a call `{"call", "name", "delta"}`), then `finish` or `failure`, and
`unknown`, the number of messages that are not understood. `second`: what the next request must end with, once each
call has the result "found"; in OpenAI's format in the dialect `dialect`. The bytes were written after public
documentation and reports.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from server.providers import (
    ArgumentsDelta,
    Chunk,
    Finish,
    Message,
    Prompt,
    Reasoning,
    ToolCall,
    ToolSpec,
    UpstreamError,
)
from server.providers.anthropic import ANTHROPIC_MESSAGES
from server.providers.anthropic import encode_body as encode_messages
from server.providers.chat_completions import CHAT_COMPLETIONS, encode_body
from server.providers.decoding.answer_decoder import AnswerDecoder
from server.providers.decoding.redaction import Redactor
from server.providers.openai_compatible_servers import DIALECTS

FOLDER = Path(__file__).with_name("dialects")
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
CUT = UpstreamError("upstream_cut", "the connection was cut")
TOOLS = (ToolSpec("look", "looks up", {"type": "object"}),)
PROMPT = Prompt("m", (Message("user", "hi"),), {}, TOOLS)


@dataclass(frozen=True)
class Outcome:
    """All that can be seen of an answer."""

    chunks: Sequence[Chunk]
    finish: Finish | None
    failure: tuple[str, bool, str] | None
    unknown: int


@dataclass(frozen=True)
class DialectSample:
    """One sample of the folder."""

    name: str
    body: bytes
    expected: dict[str, Any]

    @property
    def wire(self) -> str:
        return str(self.expected["wire"])

    @property
    def content_type(self) -> str:
        return str(self.expected.get("content_type", "text/event-stream"))

    def decoder(self) -> AnswerDecoder[Any]:
        return AnswerDecoder(
            CHAT_COMPLETIONS if self.wire == "openai" else ANTHROPIC_MESSAGES,
            Redactor("sk-secret"),
            collect_carry=True,
        )

    def decoded(self, *pieces: bytes, complete: bool = True) -> Outcome:
        """The answer of a body in these pieces. `complete`: the body ends with them; otherwise the connection is
        cut."""
        decoder = self.decoder()
        chunks: list[Chunk] = []
        for piece in pieces:
            chunks += decoder.feed(piece)
            if decoder.finish or decoder.failure:
                break
        else:
            chunks += decoder.complete(self.content_type) if complete else decoder.close(CUT)
        error = decoder.failure
        failure = (error.code, error.retryable, error.message) if error is not None else None
        return Outcome(chunks, decoder.finish, failure, decoder.unknown)

    def next_messages(self, chunks: Sequence[Chunk], finish: Finish) -> list[dict[str, Any]]:
        """The messages of the next request after the user's. What is carried has gone through the log's JSON."""
        finish = replace(finish, carry=json.loads(json.dumps(finish.carry)))
        calls = tuple(
            replace(call, id=f"call_of_ours_{number}", carry=json.loads(json.dumps(call.carry)))
            for number, call in enumerate(finish.tool_calls)
        )
        text = "".join(chunk for chunk in chunks if isinstance(chunk, str))
        turn = [Message("assistant", text, calls, carry=finish.carry)]
        turn += [Message("tool", "found", call=call.id) for call in calls]
        asked = replace(PROMPT, messages=(*PROMPT.messages, *turn))
        if self.wire == "openai":
            body = encode_body(asked, DIALECTS[self.expected["dialect"]])
        else:
            body = encode_messages(asked, 1)
        return list(json.loads(body)["messages"][1:])


@cache
def dialect(name: str) -> DialectSample:
    """The sample of that name."""
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    return DialectSample(name, (FOLDER / f"{name}.body").read_bytes(), expected)


def chunk(told: Any) -> Chunk:
    """A chunk as the files write it."""
    if isinstance(told, str):
        return told
    if "think" in told:
        return Reasoning(told["think"])
    return ArgumentsDelta(told["call"], told["name"], told["delta"])


def shown(finish: Finish) -> dict[str, Any]:
    """A finish as the files write it: without what is carried."""
    calls = [_call(call) for call in finish.tool_calls]
    parts = {"reason": finish.reason, "usage": finish.usage, "calls": calls, "refusal": finish.refusal}
    return {name: part for name, part in parts.items() if part}


def _call(call: ToolCall) -> dict[str, Any]:
    told: dict[str, Any] = {"id": call.id, "name": call.name, "arguments": call.arguments}
    return told if call.whole else {**told, "whole": False}


def is_brought_back(messages: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether a conversation ends with the expected messages, whatever its tools returned and in any order."""
    return _without_results(messages[-len(expected) :]) == _without_results(expected)


def _without_results(messages: list[dict[str, Any]]) -> list[Any]:
    stripped: list[Any] = []
    for message in messages:
        if message["role"] == "tool":
            stripped.append({**message, "content": ""})
        elif message["role"] == "user" and isinstance(message["content"], list):
            blocks = ({**block, "content": ""} for block in message["content"])
            stripped.append(sorted(blocks, key=lambda block: str(block.get("tool_use_id"))))
        else:
            stripped.append({**message, "tool_calls": _parse_arguments(message.get("tool_calls"))})
    return sorted(stripped, key=lambda each: str(each.get("tool_call_id", "")) if isinstance(each, dict) else "")


def _parse_arguments(calls: Any) -> Any:
    """The calls with parsed arguments: the run may write the same JSON in another form."""
    return [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in calls or ()
    ]
