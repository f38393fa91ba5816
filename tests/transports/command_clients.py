"""Sends steer, decide and tool_result commands, by POST or on a WebSocket, with one signature for both.

Also starts the runs that such commands are about. Asserts nothing about the commands' results.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from tests.clients.api import Api, demo, new_key
from tests.clients.websocket import Message, Talk, talk

PATIENCE = 30.0
SHIP = {"name": "ship", "description": "Sends a parcel.", "approval": "never"}
ASKED_SHIP = {**SHIP, "approval": "always"}
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class CommandResult:
    """The result of a command, whichever transport brought it."""

    status: int
    location: str | None
    body: Any

    @property
    def code(self) -> str | None:
        """The problem code if the command was refused."""
        code: str | None = self.body.get("code") if self.location is None else None
        return code


class SendCommand(Protocol):
    """Sends a command about a generation, given by its path. `do` is the command's name on a WebSocket."""

    async def __call__(
        self, do: str, generation: str, /, *, key: str | None = None, **fields: Any
    ) -> CommandResult: ...


def result_of_message(message: Message) -> CommandResult:
    """The result that a WebSocket's reply or error message holds."""
    if message["kind"] == "reply":
        return CommandResult(message["status"], message["location"], message["body"])
    return CommandResult(message["status"], None, message)


def path_of(do: str, of: str, fields: Fields) -> tuple[str, dict[str, Any]]:
    """Path and body of the POST that means the same as the command. `of` is the path of what it is about."""
    body = dict(fields)
    ends = {"post": "messages", "generate": "generations", "decide": "decisions"}
    if do == "tool_result":
        return f"{of}/tools/{body.pop('call')}/result", body
    return f"{of}/{ends.get(do, do)}", body


def frame_of(do: str, of: str, fields: Fields) -> dict[str, Any]:
    """The WebSocket message that means the same as the command."""
    named = {"generation": of.rpartition("/")[2]} if of.startswith("/v1/generations/") else {}
    return {"do": do, **named, **fields}


def send_by_post(api: Api) -> SendCommand:
    """Sends commands as POST requests."""

    async def tell(do: str, generation: str, /, *, key: str | None = None, **fields: Any) -> CommandResult:
        path, body = path_of(do, generation, fields)
        answer = await api.post(path, body, idempotency_key=key or new_key())
        return CommandResult(answer.status_code, answer.headers.get("Location"), answer.json())

    return tell


@asynccontextmanager
async def send_by_websocket(api: Api, conversation: str) -> AsyncIterator[SendCommand]:
    """Sends commands on WebSockets, one for each conversation; for an unknown generation, on `conversation`'s."""
    async with AsyncExitStack() as stack:
        sockets: dict[str, Talk] = {}

        async def socket_of(generation: str) -> Talk:
            answer = await api.http.get(generation)
            there = (
                f"/v1/conversations/{answer.json()['conversation']}" if answer.status_code == 200 else conversation
            )
            if there not in sockets:
                sockets[there] = await stack.enter_async_context(talk(api.port, there, "now"))
            return sockets[there]

        async def tell(do: str, generation: str, /, *, key: str | None = None, **fields: Any) -> CommandResult:
            socket = await socket_of(generation)
            return result_of_message(await socket.command(key=key, **frame_of(do, generation, fields)))

        yield tell


@asynccontextmanager
async def command_sender(way: str, api: Api, conversation: str) -> AsyncIterator[SendCommand]:
    """Sends commands by `post` or by `websocket`."""
    if way == "post":
        yield send_by_post(api)
    else:
        async with send_by_websocket(api, conversation) as tell:
            yield tell


async def start_run(api: Api, conversation: str, body: Fields) -> str:
    """Requests a run. Returns its path."""
    answer = await api.post(f"{conversation}/generations", body)
    assert answer.status_code == 202, answer.text
    location: str = answer.headers["Location"]
    return location


async def wait_until(api: Api, generation: str, there: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Polls the generation until the condition holds for its snapshot. Returns that snapshot."""
    headers = {"Prefer": "wait=20"}
    with trio.fail_after(PATIENCE):
        while True:
            answer = await api.http.get(generation, headers=headers)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                if there(found):
                    return found
                assert found["finished_at"] is None, found
            headers["If-None-Match"] = answer.headers["ETag"]


def waits_for_decision(found: Fields) -> bool:
    """Whether the run waits for a person's decision."""
    return bool(found["status"] == "waiting")


def waits_for_client_tool(found: Fields) -> bool:
    """Whether a client has to execute a tool call."""
    return any(call["status"] == "started" and call["client"] for call in found["tool_calls"])


async def start_asking_workflow(api: Api, conversation: str = "/v1", **given: Any) -> tuple[str, dict[str, Any]]:
    """Starts a workflow that waits for a decision and can be steered. Returns its path and the call."""
    generation = await start_run(api, conversation, {"workflow": "asking", "input": given or {"page": 7}})
    return generation, (await wait_until(api, generation, waits_for_decision))["tool_calls"][0]


async def start_tool_run(api: Api, conversation: str, tool: str | Fields, **arguments: Any) -> str:
    """Starts a demo run that calls a tool. Returns its path."""
    body = demo(2, 0, tools=[tool])
    name = tool if isinstance(tool, str) else tool["name"]
    body["parameters"]["calls"] = [{"name": name, "arguments": arguments}]
    return await start_run(api, conversation, body)


async def start_client_tool_run(
    api: Api, conversation: str = "/v1", **arguments: Any
) -> tuple[str, dict[str, Any]]:
    """Starts a run whose tool call a client has to execute. Returns its path and the call."""
    generation = await start_tool_run(api, conversation, SHIP, **arguments)
    return generation, (await wait_until(api, generation, waits_for_client_tool))["tool_calls"][0]


async def run_with_interventions(api: Api, conversation: str) -> list[str]:
    """Completes a workflow and a model's answer in which people use every command. Returns their paths."""
    tell = send_by_post(api)
    workflow = await start_run(api, conversation, {"workflow": "everything"})
    [call] = [
        one for one in (await wait_until(api, workflow, waits_for_decision))["tool_calls"] if one["needs_approval"]
    ]
    await tell("steer", workflow, name="strictness", value=9)
    await tell("decide", workflow, **approval(call, decision="modified", arguments={"amount": 4}))
    asked = await wait_until(
        api, workflow, lambda one: waits_for_decision(one) and one["tool_calls"][-1]["name"] == "publish"
    )
    await tell("steer", workflow, name="voice", value="loud")
    await tell("decide", workflow, **approval(asked["tool_calls"][-1]))
    await api.finished(workflow)
    answer = await start_tool_run(api, conversation, ASKED_SHIP, to="a")
    [call] = (await wait_until(api, answer, waits_for_decision))["tool_calls"]
    await tell("decide", answer, **approval(call))
    await wait_until(api, answer, waits_for_client_tool)
    await tell("tool_result", answer, call=call["call"], result={"number": None})
    await api.finished(answer)
    return [workflow, answer]


def approval(call: Fields, /, **more: Any) -> dict[str, Any]:
    """The decision that approves this call as it was shown; `more` changes fields."""
    return {"call": call["call"], "decision": "approved", "proposed_digest": call["proposed_digest"], **more}
