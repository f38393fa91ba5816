"""What the fake provider does with tools, besides `fake_scripts`' one.

Owns the behaviours of a model that works with results; pure. It is as strict as the strictest provider: a request
that `strict` would refuse gets its 400.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .fake_wire import CHUNKED, END, Request, Send, Step, answer, framed, status
from .strict import refusal

CITY = '{"city": "Zürich 😀"}'


def agent(request: Request) -> Iterator[Step]:
    """Calls `weather` and `now` side by side, the arguments in pieces; then tells their results, a token each."""
    wrong = refusal(request.body)
    results = _results(request.body["messages"])
    if wrong is not None:
        yield status(request.wire, 400, wrong, "invalid_request_error")
    elif results:
        yield from answer(request, [request.wire.content(f"{result} ") for result in results])
    else:
        wire = request.wire
        yield Send(CHUNKED + framed(wire.role() + wire.content("Let me see. ")), tokens=1)
        yield Send(framed(wire.call(0, "call_a", "weather") + wire.arguments(0, CITY[:9])))
        yield Send(framed(wire.call(1, "call_b", "now") + wire.arguments(0, CITY[9:11])))
        yield Send(framed(wire.arguments(1, "{") + wire.arguments(0, CITY[11:]) + wire.arguments(1, "}")))
        yield Send(framed(wire.ending(request, 1, "tool_calls")) + END, last=True)


def tools_bare(request: Request) -> Iterator[Step]:
    """No text, two calls of one tool, no ids, and not one piece of arguments."""
    wire = request.wire
    yield Send(CHUNKED + framed(wire.role()))
    yield Send(framed(wire.call(0, "", "now") + wire.call(1, "", "now")))
    yield Send(framed(wire.ending(request, 0, "tool_calls")) + END, last=True)


def _results(messages: list[dict[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        if message["role"] == "tool":
            found.append(message["content"])
        elif isinstance(message["content"], list):
            blocks = (block for block in message["content"] if block["type"] == "tool_result")
            found += [block.get("content", "nothing") for block in blocks]
    return found
