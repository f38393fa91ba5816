"""The service bot without a browser: who is asked for what, and another model than the demo."""

from pathlib import Path

import pytest

from examples.service_bot import shop as world
from examples.service_bot.app import LIMIT, close_ticket, look_up_order, refund
from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.fake_upstream import fake_upstream
from tests.harness.servers import running


@pytest.fixture(autouse=True)
def _own_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "FILE", tmp_path / "shop.json")


def test_calls_that_need_approval() -> None:
    """Looking up never asks, a refund above the limit does, what reaches the customer always."""
    order = {"order": "1017"}
    assert not look_up_order.needs_approval(order)
    assert refund.needs_approval({**order, "cents": LIMIT + 1, "reason": ""})
    assert not refund.needs_approval({**order, "cents": LIMIT, "reason": ""})
    assert close_ticket.needs_approval({**order, "message": ""})
    assert [tool.idempotent for tool in (look_up_order, refund, close_ticket)] == [True, False, False]


@pytest.mark.parametrize("made", [True, False])
def test_the_limit_is_the_orders(made: bool) -> None:
    """Three refunds of 20 euros ask twice, in one turn or one after the other; another order has its own limit."""
    asked = []
    for _ in range(3):
        wanted = {"order": "1017", "cents": LIMIT, "reason": "Dented"}
        asked.append(refund.needs_approval(wanted))
        if made and not asked[-1]:
            refund.function(**wanted)
    assert asked == [False, True, True]
    assert not refund.needs_approval({"order": "1018", "cents": 500, "reason": ""})
    assert not refund.needs_approval({"order": "1018", "cents": 500, "reason": ""})
    assert refund.needs_approval({"order": "1018", "cents": 1_001, "reason": ""})


def test_what_an_operator_approved_counts() -> None:
    """Behind a large refund the next small one asks."""
    refund.function("1017", 4_900, "Approved")
    assert refund.needs_approval({"order": "1017", "cents": 1, "reason": ""})


def test_an_order_that_is_none_asks() -> None:
    assert refund.needs_approval({"order": "7", "cents": 1, "reason": ""})


def test_a_change_is_whole_or_not_at_all() -> None:
    """More than was paid is never given back, and a failure in the middle leaves the shop as it was."""
    refund.function("1018", 1800, "All of it")
    with pytest.raises(ValueError, match="0 cents are left of this order, not 1"):
        refund.function("1018", 1, "And one more")
    with pytest.raises(ValueError, match="there is no order 7"):
        look_up_order.function("7")
    assert look_up_order.function("1018").refunded == 1800


async def test_another_model_plays_it(database: TestDatabase, tmp_path: Path) -> None:
    """By its name alone. It is told the three tools; those it invents are answered with an error, not run."""
    async with fake_upstream() as upstream:
        env = {
            "TOKENTAPE_WORKFLOWS": "examples.service_bot.app",
            "SERVICE_BOT_SHOP": str(tmp_path / "shop.json"),
            "OPENAI_BASE_URL": upstream.base_url,
            "OPENAI_API_KEY": "k",
        }
        async with running(database.app_url, env) as server, Api.open(server.port) as api:
            ticket = {"text": "It is dented.", "order": "1017", "model": "openai/agent"}
            run = (await api.post("/v1/generations", {"workflow": "service_bot", "input": ticket})).headers[
                "Location"
            ]
            events = await api.finished(run)
            assert events[-1]["type"] == "generation.completed", events[-1]
            found = await api.get(run)
            assert [call["error"]["code"] for call in found["tool_calls"]] == ["unknown_tool", "unknown_tool"]
            assert found["result"] == {"refunded": 0, "closed": False, "notes": 0}
