"""What a run waits for, read from its log: as the fold of the conversation says, and in which groups."""

from typing import Any

import pytest
from hypothesis import given

from eventstore import Event, NewEvent
from server import event_types
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.fold import fold
from server.conversations.state_machine import CallStatus
from server.webhooks.run_waits import OpenWaits, is_over, new_messages
from tests.conversations.event_builders import cancelled, decided, no_deadline, proposed, rows, tool_ended
from tests.conversations.log_strategies import logs

G = "gen_A"
RAISED = event_types.budget_raised(G, 121, None, "Ada")


def waits_after(news: list[NewEvent]) -> OpenWaits:
    """What is open after these events."""
    waits = OpenWaits(G)
    for event in rows(news):
        waits.add(event)
    return waits


def by_the_fold(found: Generation | None) -> list[tuple[str, str]]:
    """What a snapshot says that the generation waits for."""
    if found is None or found.ended:
        return []
    return [
        ("approval" if call.waits else "input", call.call)
        for call in found.tool_calls
        if call.waits or (call.client and call.status is CallStatus.STARTED)
    ]


@no_deadline
@given(log=logs())
def test_the_fold_of_the_conversation_says_the_same(log: list[Event]) -> None:
    """At every position, of every generation."""
    waits = {name: OpenWaits(name) for name in ("gen_A", "gen_B", "gen_C")}
    state = Conversation("conv_1")
    for event in log:
        state = fold(state, [event])
        for name, one in waits.items():
            one.add(event)
            found = [(wait.waiting_for, wait.details["call"]) for wait in one.after(0)]
            assert sorted(found) == sorted(by_the_fold(state.generation(name)))


def client(call: str = "call_1", **more: Any) -> NewEvent:
    """A call of a tool that a client runs."""
    return proposed(G, call, client=True, name="look", **more)


def test_calls_that_begin_to_wait_together_are_one_message() -> None:
    """In the order of the log, with the positions at which each began."""
    news = [proposed(G, "call_1", asks=True), proposed(G, "call_2"), proposed(G, "call_3", asks=True)]
    (message,) = new_messages(waits_after(news), 0)
    assert (message.waiting_for, message.position, message.last_position) == ("approval", 1, 3)
    assert [(call.call, call.name, call.position) for call in message.calls] == [
        ("call_1", "refund", 1),
        ("call_3", "refund", 3),
    ]


def test_each_kind_of_wait_is_a_message() -> None:
    news = [
        proposed(G, "call_1", asks=True),
        client("call_2"),
        event_types.tool_started(G, "call_2"),
        event_types.budget_reached(G, "tokens", 100, 120),
    ]
    found = new_messages(waits_after(news), 0)
    assert [(one.waiting_for, one.position) for one in found] == [("approval", 1), ("input", 3), ("budget", 4)]
    assert found[2].budget == {"bound": "tokens", "limit": 100, "used": 120}
    assert [call.name for call in found[1].calls] == ["look"]


def test_what_was_told_is_not_told_again() -> None:
    news = [proposed(G, "call_1", asks=True), proposed(G, "call_2", asks=True)]
    waits = waits_after(news)
    (message,) = new_messages(waits, 1)
    assert [call.call for call in message.calls] == ["call_2"]
    assert new_messages(waits, 2) == []


def test_a_message_is_over_when_the_last_of_its_calls_is() -> None:
    news = [proposed(G, "call_1", asks=True), proposed(G, "call_2", asks=True)]
    (message,) = new_messages(waits_after(news), 0)
    assert not is_over(message, waits_after([*news, decided(G, "call_1")]))
    assert is_over(message, waits_after([*news, decided(G, "call_1"), decided(G, "call_2", "rejected")]))


@pytest.mark.parametrize(
    ("after", "over"),
    [
        ([], False),
        ([event_types.budget_raised(G, 120, None, "Ada")], False),
        ([event_types.budget_raised(G, None, 9.5, "Ada")], False),
        ([RAISED], True),
        (
            [RAISED, event_types.budget_reached(G, "tokens", 121, 122)],
            True,
        ),
        ([cancelled(G)], True),
        ([cancelled("gen_B")], False),
    ],
)
def test_a_wait_for_budget(after: list[NewEvent], over: bool) -> None:
    """Over once the raise is enough; a later wait is another."""
    news = [event_types.budget_reached(G, "tokens", 100, 120)]
    (message,) = new_messages(waits_after(news), 0)
    assert is_over(message, waits_after([*news, *after])) is over


def test_a_raise_just_before_the_bound_is_no_wait() -> None:
    news = [
        event_types.budget_raised(G, 500, None, "Ada"),
        event_types.budget_reached(G, "tokens", 100, 120),
    ]
    assert new_messages(waits_after(news), 0) == []


def test_events_whose_call_is_not_retained_are_ignored() -> None:
    news = [decided(G, "call_9"), event_types.tool_started(G, "call_9"), tool_ended(G, "call_9")]
    assert new_messages(waits_after(news), 0) == []
