"""Integers that a double cannot hold: exact on every way in, compared exactly; what was approved is what runs."""

from __future__ import annotations

from typing import Any

import pytest

from server.workflows import digest
from tests.clients.api import Api, demo, new_key

from .control_clients import ASKED_SHIP, approval, asking, calling, is_asking, is_handed_out, telling, until

LONG = 2**53 + 1
EDGES = [LONG, -LONG, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("way", ["post", "websocket"])
@pytest.mark.parametrize("long", EDGES)
async def test_what_is_approved_is_what_runs(api: Api, way: str, long: int) -> None:
    """Proposed by a model, modified by a person, run by the server: with the tool's default, which is shown."""
    conversation = await api.conversation()
    generation = await calling(api, conversation, "refund", amount=long)
    (call,) = (await until(api, generation, is_asking))["tool_calls"]
    assert call["arguments"] == {"amount": long, "to": "the customer"}
    assert call["proposed_digest"] == digest(call["arguments"])
    other = long - 1 if long > 0 else long + 1
    async with telling(way, api, conversation) as tell:
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
async def test_what_clients_and_workflows_are_given_and_give_back(api: Api, way: str) -> None:
    conversation = await api.conversation(metadata={"id": LONG})
    assert (await api.get(conversation))["metadata"] == {"id": LONG}
    async with telling(way, api, conversation) as tell:
        handed = await calling(api, conversation, ASKED_SHIP, id=LONG)
        (call,) = (await until(api, handed, is_asking))["tool_calls"]
        await tell("decide", handed, **approval(call, decision="modified", arguments={"id": LONG + 2}))
        (call,) = (await until(api, handed, is_handed_out))["tool_calls"]
        assert call["arguments"] == {"id": LONG + 2}
        await tell("tool_result", handed, call=call["call"], result={"id": [LONG]})
        await api.finished(handed)
        assert (await api.get(handed))["tool_calls"][0]["result"] == {"id": [LONG]}
        asked, call = await asking(api, conversation, page=LONG)
        assert call["arguments"] == {"page": LONG}
        await tell("decide", asked, **approval(call))
        await api.finished(asked)
        assert (await api.get(asked))["result"]["arguments"] == {"page": LONG}


async def test_requests_that_differ_in_the_last_digit_are_two(api: Api) -> None:
    """By one key; and the same value is the same request."""
    bodies: list[dict[str, Any]] = [demo(1, 0, seed) for seed in (LONG, LONG + 1, LONG)]
    key = new_key()
    first, second, third = [await api.post("/v1/generations", body, idempotency_key=key) for body in bodies]
    assert (first.status_code, second.status_code) == (202, 422)
    assert third.json()["id"] == first.json()["id"]
    assert first.json()["parameters"]["seed"] == LONG


@pytest.mark.parametrize("number", ["18446744073709551616", "9223372036854775808", "1e400"])
async def test_longer_ones_are_refused_in_words(api: Api, number: str) -> None:
    answer = await api.http.post(
        "/v1/conversations",
        content=f'{{"metadata": {{"id": {number}}}}}',
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "metadata.id: numbers have to fit in 64 bits" in answer.json()["detail"]
