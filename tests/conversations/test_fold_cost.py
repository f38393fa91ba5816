"""The cost of a fold, counted in function calls: it depends on the new events, not on the state before them."""

import sys
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any

import pytest

from eventstore import Event, NewEvent
from server import event_types
from server.conversations.conversation_state import Conversation
from server.conversations.fold import ConversationFold, fold

from .event_builders import completed, proposed, requested, rows, said, started, tool_ended

NEW = Conversation("conv_1")
LARGE = {"nested": {f"key{n}": ["x" * 20, n, {"deep": [n] * 5}] for n in range(50)}}


def count_calls(act: Callable[[], Any]) -> int:
    """The number of function calls meanwhile, Python's own included."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@cache
def log_of_answers(generations: int) -> list[Event]:
    """A log of this number of answers with tool calls and large parameters; the last one has not ended."""
    news = [event_types.conversation_started("T", LARGE)]
    for n in range(generations):
        name = f"gen_{n}"
        news += [
            said(f"m{n}", "hello"),
            event_types.generation_requested(name, model="demo", parameters={"n": n, **LARGE}, by="anonymous"),
            started(name),
            *(proposed(name, f"call_{n}_{k}") for k in range(3)),
            *(tool_ended(name, f"call_{n}_{k}") for k in range(2)),
            event_types.token(name, "so "),
            completed(name),
        ]
    return rows(news[:-1])


MOVES: dict[str, Callable[[str], NewEvent]] = {
    "a token": lambda name: event_types.token(name, "x"),
    "a thought": lambda name: event_types.reasoning(name, "x"),
    "a piece of a call": lambda name: event_types.tool_arguments(name, "call_y", "x"),
    "progress": lambda name: event_types.progress(name, 1, 2, "pages", None),
    "a message": lambda name: said("m", "hi"),
    "a decision's worth of calls": lambda name: proposed(name, "call_x"),
    "its end": completed,
    "a request": lambda name: requested("gen_x"),
}


@pytest.mark.parametrize("kind", MOVES)
def test_step_cost_does_not_grow_with_the_conversation(kind: str) -> None:
    """As many calls after 200 answers as after 10; and unchanged parts are the same objects."""
    counts = []
    for generations in (10, 200):
        state = fold(NEW, log_of_answers(generations))
        event = rows([MOVES[kind](f"gen_{generations - 1}")], state.position)
        after: list[Conversation] = []
        counts.append(count_calls(lambda: after.append(fold(state, event))))  # noqa: B023  # used at once
        assert after[0].history is state.history
        assert after[0].generation("gen_1") is state.generation("gen_1")
    assert counts[0] == counts[1]


def alternating(count: int) -> list[Event]:
    """A workflow that writes a token and its progress in turn."""
    news = [event_types.conversation_started("T", None), requested("gen_1"), started("gen_1")]
    for n in range(count // 2):
        news += [event_types.token("gen_1", "x" * 10), event_types.progress("gen_1", n, count, "pages", None)]
    return rows(news)


def messages(count: int) -> list[Event]:
    """A conversation of messages."""
    return rows([event_types.conversation_started("T", None), *(said(f"m{n}", "x") for n in range(count))])


def requests(count: int) -> list[Event]:
    """Many short answers."""
    news = [event_types.conversation_started("T", None)]
    for n in range(count // 4):
        name = f"gen_{n}"
        news += [requested(name), started(name), event_types.token(name, "x"), completed(name)]
    return rows(news)


def taken(count: int) -> list[Event]:
    """An answer that takes many messages, with a token between two of them."""
    news = [event_types.conversation_started("T", None), requested("gen_1"), started("gen_1")]
    for n in range(count // 3):
        news += [
            event_types.message_posted(f"m{n}", "user", "x", None, "anonymous", "now", "gen_1"),
            event_types.message_applied("gen_1", f"m{n}"),
            event_types.token("gen_1", "x" * 10),
        ]
    return rows(news)


@pytest.mark.parametrize("kind", [alternating, messages, requests, taken])
def test_fold_is_linear(kind: Callable[[int], list[Event]]) -> None:
    """Twice the events take twice the calls, in one page."""
    short, long = kind(1_000), kind(2_000)
    counts = [count_calls(lambda: fold(NEW, log)) for log in (short, long)]  # noqa: B023  # used at once
    assert counts[1] <= 2.02 * counts[0]


def test_messages_that_an_answer_takes_are_counted_along() -> None:
    """In memory and in the text: in one page, event by event, and measured anew."""
    log = taken(60)
    whole = fold(NEW, log)
    step = NEW
    for event in log:
        step = fold(step, [event])
    assert step == whole
    assert step.size == whole.size
    (found,) = whole.open
    assert found.applied == step.open[0].applied
    assert [one.text_length for one in found.applied] == [10 * n for n in range(20)]
    assert Conversation("conv_1").size < whole.size
    again = fold(whole, rows([event_types.token("gen_1", "x")], whole.position))
    assert again.open[0].applied is found.applied


def test_text_is_joined_on_demand() -> None:
    """Not while it grows; the pieces of a text that nobody reads stay few."""
    state = fold(NEW, rows([event_types.conversation_started("T", None), requested("gen_1"), started("gen_1")]))
    for n in range(1_000):
        state = fold(state, rows([event_types.token("gen_1", f"{n} ")], state.position))
        (found,) = state.open
        assert found.growing_text._pieces <= 65
    assert found.text_length == sum(len(f"{n} ") for n in range(1_000))
    assert found.text == "".join(f"{n} " for n in range(1_000))
    assert found.text is found.text


def test_fold_in_pages_equals_the_fold() -> None:
    log = alternating(1_000)
    folding = ConversationFold(NEW)
    states = []
    for first in range(0, len(log), 70):
        folding.add(log[first : first + 70])
        if first % 140:
            states.append(folding.state())
    assert folding.state() == fold(NEW, log)
    assert folding.state().size == fold(NEW, log).size
    for state in states:
        assert state == fold(NEW, log[: state.position])
