"""A WebSocket is cut while a command is sent, then the command is sent again with the same key.

Wherever the cut was, the command must act once, and every repetition must get the same result.
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

from .command_clients import (
    CommandResult,
    approval,
    frame_of,
    result_of_message,
    send_by_post,
    start_asking_workflow,
    start_client_tool_run,
)

PATIENCE = 60.0
AT_ONCE = 6
SHARES = (0, 0.05, 0.3, 0.7, 0.99, 1)
"""The share of the command's frame that is sent before the cut."""


@dataclass(frozen=True)
class Command:
    """A command that must act once. `of` is the path of what it is about, `leaves` the type of its one event."""

    conversation: str
    do: str
    of: str
    fields: dict[str, Any]
    leaves: str


Make = Callable[[Api, str], Awaitable[Command]]


async def make_decide(api: Api, conversation: str) -> Command:
    """A decision that a run waits for."""
    generation, call = await start_asking_workflow(api, conversation, page=1)
    fields = approval(call, decision="modified", arguments={"page": 2})
    return Command(conversation, "decide", generation, fields, "tool.decided")


async def make_steer(api: Api, conversation: str) -> Command:
    """Steering of a run that goes on until it is cancelled."""
    generation, _ = await start_asking_workflow(api, conversation)
    return Command(conversation, "steer", generation, {"name": "strictness", "value": 7}, "steering.changed")


async def make_tool_result(api: Api, conversation: str) -> Command:
    """The result of a call that a client executes."""
    generation, call = await start_client_tool_run(api, conversation)
    fields = {"call": call["call"], "result": {"number": 5}}
    return Command(conversation, "tool_result", generation, fields, "tool.finished")


async def make_generate(api: Api, conversation: str) -> Command:
    """A run that ends by itself."""
    return Command(conversation, "generate", conversation, demo(3, input="Hi"), "generation.requested")


async def make_post(api: Api, conversation: str) -> Command:
    """A message."""
    fields = {"role": "user", "content": "é", "author": "Ada"}
    return Command(conversation, "post", conversation, fields, "message.posted")


async def send_share_and_disconnect(api: Api, command: Command, key: str, share: float) -> None:
    """Sends this share of the frame and disconnects without reading."""
    async with await RawWebSocket.open(api.port, f"{command.conversation}/ws?after=now") as socket:
        frame = socket.frame({"id": "c1", "key": key, **frame_of(command.do, command.of, command.fields)})
        sent = round(share * len(frame))
        if share not in (0, 1):
            sent = min(max(sent, 1), len(frame) - 1)
        await socket.send_bytes(frame[:sent])


async def send_and_read_reply(api: Api, command: Command, key: str) -> CommandResult:
    """Sends the whole command and reads its reply."""
    async with talk(api.port, command.conversation, "now") as socket:
        return result_of_message(await socket.command(key=key, **frame_of(command.do, command.of, command.fields)))


async def check_acts_once(api: Api, make: Make, share: float | None) -> None:
    """Cuts after `share` of the frame (None: after the reply), then sends the command twice by POST and once on
    another WebSocket.
    """
    command, key = await make(api, await api.conversation()), new_key()
    first = None
    if share is None:
        first = await send_and_read_reply(api, command, key)
    else:
        await send_share_and_disconnect(api, command, key, share)
    told = await send_by_post(api)(command.do, command.of, key=key, **command.fields)
    assert told.status in (200, 201, 202), told
    assert first in (None, told)
    assert await send_by_post(api)(command.do, command.of, key=key, **command.fields) == told
    assert await send_and_read_reply(api, command, key) == told
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


@pytest.mark.parametrize(
    "make", [make_decide, make_steer, make_tool_result, make_generate, make_post], ids=lambda make: make.__name__
)
async def test_command_cut_anywhere_acts_once(api: Api, make: Make) -> None:
    """Before its frame, within it, after it, and after its reply."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(share: float | None) -> None:
        async with limiter:
            await check_acts_once(api, make, share)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for share in (*SHARES, 1, 1, None):
                nursery.start_soon(one, share)
