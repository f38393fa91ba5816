"""A command is sent on a WebSocket that is cut, and then by POST with the same key: it acts once, wherever the cut
was, and both answers are one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from tests.clients.api import Api, demo, new_key
from tests.clients.raw_websocket import RawWebSocket
from tests.clients.websocket import talk

from .control_clients import Told, approval, asking, by_post, frame_of, handed_out, of_reply

PATIENCE = 60.0
AT_ONCE = 6
SHARES = (0, 0.05, 0.3, 0.7, 0.99, 1)
"""How much of the frame is sent before the cut."""


@dataclass(frozen=True)
class Command:
    """One that is to act once. `of` is the path of what it is about, `leaves` the type of its one event."""

    conversation: str
    do: str
    of: str
    fields: dict[str, Any]
    leaves: str


Make = Callable[[Api, str], Awaitable[Command]]


async def decide(api: Api, conversation: str) -> Command:
    """A decision that a run waits for."""
    generation, call = await asking(api, conversation, page=1)
    fields = approval(call, decision="modified", arguments={"page": 2})
    return Command(conversation, "decide", generation, fields, "tool.decided")


async def steer(api: Api, conversation: str) -> Command:
    """Of a run that goes on until it is cancelled."""
    generation, _ = await asking(api, conversation)
    return Command(conversation, "steer", generation, {"name": "strictness", "value": 7}, "steering.changed")


async def tool_result(api: Api, conversation: str) -> Command:
    """Of a call that a client runs."""
    generation, call = await handed_out(api, conversation)
    fields = {"call": call["call"], "result": {"number": 5}}
    return Command(conversation, "tool_result", generation, fields, "tool.finished")


async def generate(api: Api, conversation: str) -> Command:
    """A run that ends by itself."""
    return Command(conversation, "generate", conversation, demo(3, input="Hi"), "generation.requested")


async def post(api: Api, conversation: str) -> Command:
    """A message."""
    fields = {"role": "user", "content": "é", "author": "Ada"}
    return Command(conversation, "post", conversation, fields, "message.posted")


async def cut(api: Api, command: Command, key: str, share: float) -> None:
    """Sends so much of it, and is gone without having heard a word."""
    async with await RawWebSocket.open(api.port, f"{command.conversation}/ws?after=now") as socket:
        frame = socket.frame({"id": "c1", "key": key, **frame_of(command.do, command.of, command.fields)})
        sent = round(share * len(frame))
        if share not in (0, 1):
            sent = min(max(sent, 1), len(frame) - 1)
        await socket.send_bytes(frame[:sent])


async def reply(api: Api, command: Command, key: str) -> Told:
    """Sends it whole, and hears the reply."""
    async with talk(api.port, command.conversation, "now") as socket:
        return of_reply(await socket.command(key=key, **frame_of(command.do, command.of, command.fields)))


async def acts_once(api: Api, make: Make, share: float | None) -> None:
    """Cut there (None: behind the reply), then by POST, twice, and on another WebSocket."""
    command, key = await make(api, await api.conversation()), new_key()
    first = None
    if share is None:
        first = await reply(api, command, key)
    else:
        await cut(api, command, key, share)
    told = await by_post(api)(command.do, command.of, key=key, **command.fields)
    assert told.status in (200, 201, 202), told
    assert first in (None, told)
    assert await by_post(api)(command.do, command.of, key=key, **command.fields) == told
    assert await reply(api, command, key) == told
    for generation in (await api.get(command.conversation))["generations"]:
        if command.do == "steer":
            await api.post(f"/v1/generations/{generation['id']}/cancel", {})
        await api.finished(f"/v1/generations/{generation['id']}")
    log = await api.log(command.conversation)
    left = [event for event in log if event["type"] == command.leaves]
    assert len(left) == 1, f"cut after {share} of the frame: {left}"
    assert [event["type"] for event in log].count("tool.started") <= 1
    if command.do == "decide":
        [result] = [event["value"] for event in log if event["type"] == "result"]
        assert result["arguments"] == {"page": 2}


@pytest.mark.parametrize("make", [decide, steer, tool_result, generate, post], ids=lambda make: make.__name__)
async def test_a_command_acts_once(api: Api, make: Make) -> None:
    """Before its frame, in it, behind it, and behind its reply."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(share: float | None) -> None:
        async with limiter:
            await acts_once(api, make, share)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for share in (*SHARES, 1, 1, None):
                nursery.start_soon(one, share)
