"""Generations in such states that people can talk back to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from server.web.openapi.operations import EXAMPLE_BODIES
from tests.clients.api import Api

CLIENT_TOOL = EXAMPLE_BODIES["A model with a tool that you run"]
WORKFLOW = EXAMPLE_BODIES["A workflow"]

APP = {
    "TOKENTAPE_WORKFLOWS": "tests.openapi.app",
    "TOKENTAPE_WEBHOOK_SECRET": "whsec_dGhpcyBpcyBhIHNlY3JldCBmb3IgdGVzdHMh",
    "TOKENTAPE_WEBHOOK_ALLOW_PRIVATE": "true",
}
"""Settings of a server that has the app loaded, and takes webhooks."""
NOBODY = "http://127.0.0.1:9/hook"


async def until(api: Api, path: str, there: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The generation's snapshot as soon as it is so."""
    with trio.fail_after(20):
        while not there(found := await api.get(path)):
            await trio.sleep(0.02)
    return dict(found)


async def agent(api: Api, conversation: str = "/v1", **fields: Any) -> tuple[str, dict[str, Any]]:
    """A model that waits for a decision on a call which the client runs; its path, and the call."""
    return await _waiting(api, conversation, {**CLIENT_TOOL, **fields})


async def workflow(api: Api, conversation: str = "/v1", **fields: Any) -> tuple[str, dict[str, Any]]:
    """A workflow that waits for a decision, and can be steered."""
    return await _waiting(api, conversation, {**WORKFLOW, **fields})


async def paused(api: Api, conversation: str = "/v1") -> str:
    """A model that waits for a larger budget; its path."""
    asked = {"model": "demo", "input": "Hi", "parameters": {"tokens": 50, "rate": 0}, "budget": {"tokens": 1}}
    answer = await api.post(f"{conversation}/generations", asked)
    assert answer.status_code == 202, answer.text
    path: str = answer.headers["Location"]
    await until(api, path, lambda one: one["waiting_for"] == "budget")
    return path


async def _waiting(api: Api, conversation: str, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    answer = await api.post(f"{conversation}/generations", body)
    assert answer.status_code == 202, answer.text
    path = answer.headers["Location"]
    found = await until(api, path, lambda one: one["status"] == "waiting")
    return path, found["tool_calls"][-1]


def approval(call: Mapping[str, Any]) -> dict[str, Any]:
    """The decision of who saw it."""
    return {"call": call["call"], "decision": "approved", "proposed_digest": call["proposed_digest"]}
