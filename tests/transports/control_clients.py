"""The three things people tell a run, by POST or on a WebSocket, behind one signature; and runs to tell them.

`Told` is what both transports give back: a status, a place and a body, or a code. Asserts nothing.
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
class Told:
    """An answer, whatever brought it."""

    status: int
    location: str | None
    body: Any

    @property
    def code(self) -> str | None:
        """A refusal's."""
        code: str | None = self.body.get("code") if self.location is None else None
        return code


class Tell(Protocol):
    """Sends a command about a generation, given by its path; `do` is the WebSocket's verb."""

    async def __call__(self, do: str, generation: str, /, *, key: str | None = None, **fields: Any) -> Told: ...


def of_reply(message: Message) -> Told:
    """What a reply, or an error, says."""
    if message["kind"] == "reply":
        return Told(message["status"], message["location"], message["body"])
    return Told(message["status"], None, message)


def path_of(do: str, of: str, fields: Fields) -> tuple[str, dict[str, Any]]:
    """The address and the body of the POST that means the same; `of`: the path of what it is about."""
    body = dict(fields)
    ends = {"post": "messages", "generate": "generations", "decide": "decisions"}
    if do == "tool_result":
        return f"{of}/tools/{body.pop('call')}/result", body
    return f"{of}/{ends.get(do, do)}", body


def frame_of(do: str, of: str, fields: Fields) -> dict[str, Any]:
    """The same as a WebSocket's command."""
    named = {"generation": of.rpartition("/")[2]} if of.startswith("/v1/generations/") else {}
    return {"do": do, **named, **fields}


def by_post(api: Api) -> Tell:
    """As POSTs."""

    async def tell(do: str, generation: str, /, *, key: str | None = None, **fields: Any) -> Told:
        path, body = path_of(do, generation, fields)
        answer = await api.post(path, body, idempotency_key=key or new_key())
        return Told(answer.status_code, answer.headers.get("Location"), answer.json())

    return tell


@asynccontextmanager
async def by_websocket(api: Api, conversation: str) -> AsyncIterator[Tell]:
    """On a WebSocket each of the conversations that the generations are in; where one is in none, on the first."""
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

        async def tell(do: str, generation: str, /, *, key: str | None = None, **fields: Any) -> Told:
            socket = await socket_of(generation)
            return of_reply(await socket.command(key=key, **frame_of(do, generation, fields)))

        yield tell


@asynccontextmanager
async def telling(way: str, api: Api, conversation: str) -> AsyncIterator[Tell]:
    """By `post` or by `websocket`."""
    if way == "post":
        yield by_post(api)
    else:
        async with by_websocket(api, conversation) as tell:
            yield tell


async def begun(api: Api, conversation: str, body: Fields) -> str:
    """A run, requested; its path."""
    answer = await api.post(f"{conversation}/generations", body)
    assert answer.status_code == 202, answer.text
    location: str = answer.headers["Location"]
    return location


async def until(api: Api, generation: str, there: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The generation's snapshot as soon as it is so, held open until it changes."""
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


def is_asking(found: Fields) -> bool:
    """Whether it waits for a decision."""
    return bool(found["status"] == "waiting")


def is_handed_out(found: Fields) -> bool:
    """Whether a client has to run a call."""
    return any(call["status"] == "started" and call["client"] for call in found["tool_calls"])


async def asking(api: Api, conversation: str = "/v1", **given: Any) -> tuple[str, dict[str, Any]]:
    """A workflow that waits for a decision and can be steered; its path, and the call."""
    generation = await begun(api, conversation, {"workflow": "asking", "input": given or {"page": 7}})
    return generation, (await until(api, generation, is_asking))["tool_calls"][0]


async def calling(api: Api, conversation: str, tool: str | Fields, **arguments: Any) -> str:
    """A demo run that calls a tool, begun; its path."""
    body = demo(2, 0, tools=[tool])
    name = tool if isinstance(tool, str) else tool["name"]
    body["parameters"]["calls"] = [{"name": name, "arguments": arguments}]
    return await begun(api, conversation, body)


async def handed_out(api: Api, conversation: str = "/v1", **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A run that waits for a client to run a call; its path, and the call."""
    generation = await calling(api, conversation, SHIP, **arguments)
    return generation, (await until(api, generation, is_handed_out))["tool_calls"][0]


async def talked_to(api: Api, conversation: str) -> list[str]:
    """A workflow and a model's answer that people took part in with all they can do, both over; their paths."""
    tell = by_post(api)
    workflow = await begun(api, conversation, {"workflow": "everything"})
    [call] = [one for one in (await until(api, workflow, is_asking))["tool_calls"] if one["needs_approval"]]
    await tell("steer", workflow, name="strictness", value=9)
    await tell("decide", workflow, **approval(call, decision="modified", arguments={"amount": 4}))
    asked = await until(api, workflow, lambda one: is_asking(one) and one["tool_calls"][-1]["name"] == "publish")
    await tell("steer", workflow, name="voice", value="loud")
    await tell("decide", workflow, **approval(asked["tool_calls"][-1]))
    await api.finished(workflow)
    answer = await calling(api, conversation, ASKED_SHIP, to="a")
    [call] = (await until(api, answer, is_asking))["tool_calls"]
    await tell("decide", answer, **approval(call))
    await until(api, answer, is_handed_out)
    await tell("tool_result", answer, call=call["call"], result={"number": None})
    await api.finished(answer)
    return [workflow, answer]


def approval(call: Fields, /, **more: Any) -> dict[str, Any]:
    """The decision of somebody who saw it; `more` makes another one of it."""
    return {"call": call["call"], "decision": "approved", "proposed_digest": call["proposed_digest"], **more}
