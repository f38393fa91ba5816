"""A budget in the fold and in decisions: what reaches and raises it, in whatever order, and what is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import NewEvent
from server import event_types
from server.conversations.budget import Budget
from server.conversations.command_types import RaiseBudget, RequestGeneration
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.decide import decide_budget, decide_request
from server.conversations.fold import fold
from server.conversations.stored_state import from_stored, to_stored
from server.problem import Problem

from .event_builders import completed, decided, no_deadline, proposed, rows, started

G = "gen_A"
BUDGET = {"tokens": 100, "cost": 0.5}
OPEN = event_types.conversation_started(None, None)


def requested(budget: dict[str, Any] | None = BUDGET) -> NewEvent:
    return event_types.generation_requested(G, model="demo", parameters={}, budget=budget, by="Ada")


def state(*news: NewEvent, budget: dict[str, Any] | None = BUDGET) -> Conversation:
    """A conversation whose generation has started, and then these."""
    return fold(Conversation("conv_1"), rows([OPEN, requested(budget), started(G), *news]))


def after(*news: NewEvent) -> Generation:
    """The generation after these."""
    found = state(*news).generation(G)
    assert found is not None
    return found


REACHED = event_types.budget_reached(G, "tokens", 100, 103)
COST = event_types.budget_reached(G, "cost", 0.5, 0.6)


def raised(tokens: int | None = None, cost: float | None = None) -> NewEvent:
    return event_types.budget_raised(G, tokens, cost, "Bob")


@pytest.mark.parametrize(
    ("news", "status", "waiting_for", "budget"),
    [
        ([], "running", None, Budget(100, 0.5)),
        ([REACHED], "waiting", "budget", Budget(100, 0.5, "tokens", 103)),
        ([REACHED, raised(200)], "running", None, Budget(200, 0.5)),
        ([REACHED, raised(103)], "waiting", "budget", Budget(103, 0.5, "tokens", 103)),
        ([REACHED, raised(cost=9.0)], "waiting", "budget", Budget(100, 9.0, "tokens", 103)),
        ([raised(200)], "running", None, Budget(200, 0.5)),
        ([raised(200), raised(150)], "running", None, Budget(200, 0.5)),
        # Raised just before the run says that it has reached the old bound: nobody would raise it again.
        ([raised(200), REACHED], "running", None, Budget(200, 0.5)),
        ([COST], "waiting", "budget", Budget(100, 0.5, "cost", 0.6)),
        ([COST, raised(cost=0.7)], "running", None, Budget(100, 0.7)),
        # Another attempt waits on; so it does while calls wait, and for those where the budget was raised.
        ([REACHED, event_types.generation_interrupted(G, 1, "server_stopped")], "queued", None, "reached"),
        ([REACHED, event_types.generation_interrupted(G, 1, "x"), started(G, 2)], "waiting", "budget", "reached"),
        ([proposed(G, asks=True), REACHED], "waiting", "budget", "reached"),
        ([proposed(G, asks=True), REACHED, raised(200)], "waiting", "approval", Budget(200, 0.5)),
        ([proposed(G, asks=True), REACHED, decided(G)], "waiting", "budget", "reached"),
        ([proposed(G, asks=True), REACHED, decided(G), raised(200)], "running", None, Budget(200, 0.5)),
        ([REACHED, event_types.steering_changed(G, "a", 1, "Ada")], "waiting", "budget", "reached"),
        ([REACHED, completed(G)], "completed", None, "reached"),
    ],
)
def test_budget_after_events(
    news: list[NewEvent], status: str, waiting_for: str | None, budget: Budget | str
) -> None:
    found = after(*news)
    expected = Budget(100, 0.5, "tokens", 103) if budget == "reached" else budget
    assert (found.status, found.waiting_for, found.budget) == (status, waiting_for, expected)
    whole = state(*news)
    assert from_stored(to_stored(whole)) == whole
    assert found.tool_calls or whole.size == from_stored(to_stored(whole)).size


def test_no_pause_without_a_budget() -> None:
    whole = state(REACHED, raised(5), budget=None)
    found = whole.generation(G)
    assert found is not None
    assert (found.status, found.budget) == ("running", None)


@no_deadline
@given(
    st.lists(
        st.integers(1, 300).map(raised)
        | st.integers(50, 300).map(lambda n: event_types.budget_reached(G, "tokens", 1, n)),
        max_size=12,
    )
)
def test_pauses_while_a_bound_is_reached(news: list[NewEvent]) -> None:
    """And a bound never falls."""
    tokens = 100
    for number in range(len(news) + 1):
        budget = after(*news[:number]).budget
        assert budget is not None
        assert budget.tokens is not None
        assert budget.tokens >= tokens
        tokens = budget.tokens
        assert budget.reached is None or (budget.used is not None and budget.used >= tokens)


@pytest.mark.parametrize(
    ("budget", "fields"),
    [
        (None, None),
        (Budget(5), {"tokens": 5}),
        (Budget(cost=0.5), {"cost": 0.5}),
        (Budget(5, 0.5), {"tokens": 5, "cost": 0.5}),
    ],
)
def test_request_with_a_budget(budget: Budget | None, fields: dict[str, Any] | None) -> None:

    command = RequestGeneration("gen_B", {}, "Ada", model="demo", budget=budget)
    (event,) = decide_request(Conversation("conv_1"), command)
    assert msgspec.json.decode(event.data).get("budget") == fields


@pytest.mark.parametrize(
    ("news", "tokens", "cost", "expected", "field"),
    [
        ([], 101, None, None, None),
        ([], None, 0.6, None, None),
        ([], 101, 0.6, None, None),
        ([REACHED], 104, None, None, None),
        ([], 100, None, (422, "invalid_budget"), "tokens"),
        ([], None, 0.5, (422, "invalid_budget"), "cost"),
        ([], 101, 0.1, (422, "invalid_budget"), "cost"),
        ([REACHED], 103, None, (422, "invalid_budget"), "tokens"),
        ([COST], None, 0.6, (422, "invalid_budget"), "cost"),
        ([completed(G)], 200, None, (409, "generation_ended"), None),
    ],
)
def test_raise_budget(
    news: list[NewEvent],
    tokens: int | None,
    cost: float | None,
    expected: tuple[int, str] | None,
    field: str | None,
) -> None:
    command = RaiseBudget(G, tokens, cost, "Bob")
    if expected is None:
        (event,) = decide_budget(state(*news), command)
        assert event == raised(tokens, cost)
        return
    with pytest.raises(Problem) as caught:
        decide_budget(state(*news), command)
    assert (caught.value.status, caught.value.code) == expected
    if field is not None:
        assert caught.value.extra == {"field": field}


def test_missing_bound_cannot_be_raised() -> None:
    with pytest.raises(Problem, match="no_budget"):
        decide_budget(state(budget=None), RaiseBudget(G, 5, None, "Bob"))
    with pytest.raises(Problem, match="no such bound"):
        decide_budget(state(budget={"tokens": 5}), RaiseBudget(G, None, 5.0, "Bob"))
    with pytest.raises(Problem, match="not_found"):
        decide_budget(state(), RaiseBudget("gen_B", 5, None, "Bob"))
