"""Integers that a double cannot hold must stay exact in every request, comparison and response."""

from __future__ import annotations

from typing import Any

import pytest

from server.workflows import digest
from tests.clients.api import Api, demo, new_key

from .command_clients import (
    ASKED_SHIP,
    approval,
    command_sender,
    start_asking_workflow,
    start_tool_run,
    wait_until,
    waits_for_client_tool,
    waits_for_decision,
)

LONG = 2**53 + 1
EDGES = [LONG, -LONG, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("way", ["post", "websocket"])
@pytest.mark.parametrize("long", EDGES)
async def test_approved_long_integer_is_what_the_tool_gets(api: Api, way: str, long: int) -> None:
    """Proposed by a model, modified by a person, executed by the server with the default that was shown."""
    conversation = await api.conversation()
    generation = await start_tool_run(api, conversation, "refund", amount=long)
    (call,) = (await wait_until(api, generation, waits_for_decision))["tool_calls"]
    assert call["arguments"] == {"amount": long, "to": "the customer"}
    assert call["proposed_digest"] == digest(call["arguments"])
    other = long - 1 if long > 0 else long + 1
    async with command_sender(way, api, conversation) as tell:
        key = new_key()
        decision = approval(call, decision="modified", arguments={"amount": other})
        first = await tell("decide", generation, key=key, **decision)
        assert first.status == 200
        changed = {**decision, "arguments": {"amount": long}}
        assert (await tell("decide", generation, key=key, **changed)).status == 422, (
            "another body, to the last digit"
        )
        assert await tell("decide", generation, key=key, **decision) == first
    await api.finished(generation)
    (call,) = (await api.get(generation))["tool_calls"]
    assert call["arguments"] == {"amount": other, "to": "the customer"}
    assert call["arguments_digest"] == digest(call["arguments"])
    assert call["result"] == {"paid": other, "to": "the customer"}


@pytest.mark.parametrize("way", ["post", "websocket"])
async def test_long_integers_in_metadata_tool_results_and_workflows(api: Api, way: str) -> None:
    conversation = await api.conversation(metadata={"id": LONG})
    assert (await api.get(conversation))["metadata"] == {"id": LONG}
    async with command_sender(way, api, conversation) as tell:
        handed = await start_tool_run(api, conversation, ASKED_SHIP, id=LONG)
        (call,) = (await wait_until(api, handed, waits_for_decision))["tool_calls"]
        await tell("decide", handed, **approval(call, decision="modified", arguments={"id": LONG + 2}))
        (call,) = (await wait_until(api, handed, waits_for_client_tool))["tool_calls"]
        assert call["arguments"] == {"id": LONG + 2}
        await tell("tool_result", handed, call=call["call"], result={"id": [LONG]})
        await api.finished(handed)
        assert (await api.get(handed))["tool_calls"][0]["result"] == {"id": [LONG]}
        asked, call = await start_asking_workflow(api, conversation, page=LONG)
        assert call["arguments"] == {"page": LONG}
        await tell("decide", asked, **approval(call))
        await api.finished(asked)
        assert (await api.get(asked))["result"]["arguments"] == {"page": LONG}


async def test_requests_that_differ_in_the_last_digit_are_different(api: Api) -> None:
    """With one key the second gets 422, and a true repetition the first response."""
    bodies: list[dict[str, Any]] = [demo(1, 0, seed) for seed in (LONG, LONG + 1, LONG)]
    key = new_key()
    first, second, third = [await api.post("/v1/generations", body, idempotency_key=key) for body in bodies]
    assert (first.status_code, second.status_code) == (202, 422)
    assert third.json()["id"] == first.json()["id"]
    assert first.json()["parameters"]["seed"] == LONG


@pytest.mark.parametrize("number", ["18446744073709551616", "9223372036854775808", "1e400"])
async def test_integer_beyond_64_bits_gets_422(api: Api, number: str) -> None:
    answer = await api.http.post(
        "/v1/conversations",
        content=f'{{"metadata": {{"id": {number}}}}}',
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "metadata.id: numbers have to fit in 64 bits" in answer.json()["detail"]
