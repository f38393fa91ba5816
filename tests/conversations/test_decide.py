"""Decisions on commands: every command in every state of a generation, and the events that it produces."""

import json
from itertools import count
from typing import Any

import pytest

from eventstore import NewEvent
from server import event_types, ids
from server.conversations import decide
from server.conversations.command_types import (
    CancelGeneration,
    NewMessage,
    PostMessage,
    RequestGeneration,
    StartConversation,
)
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.conversations.state_machine import Status
from server.problem import Problem

from .event_builders import cancelled, completed, failed, proposed, requested, rows, said, started

WAYS: dict[Status | None, list[NewEvent]] = {
    None: [],
    Status.QUEUED: [requested("gen_A")],
    Status.RUNNING: [requested("gen_A"), started("gen_A")],
    Status.WAITING: [requested("gen_A"), started("gen_A"), proposed("gen_A", asks=True)],
    Status.COMPLETED: [requested("gen_A"), started("gen_A"), completed("gen_A")],
    Status.FAILED: [requested("gen_A"), started("gen_A"), failed("gen_A")],
    Status.CANCELLED: [requested("gen_A"), cancelled("gen_A")],
}
"""How a conversation comes to a generation in each state; None is one without any."""
BUSY = {Status.QUEUED, Status.RUNNING, Status.WAITING}
ASK = RequestGeneration("gen_B", {"tokens": 2}, "anonymous", model="demo")


def state_with(status: Status | None) -> Conversation:
    """A conversation whose generation `gen_A` has this status."""
    found = fold(Conversation("conv_1"), rows([event_types.conversation_started(None, None), *WAYS[status]]))
    assert [generation.status for generation in found.generations] == ([status] if status else [])
    return found


def fields(new: NewEvent) -> tuple[str, str | None, dict[str, Any]]:
    """An event, readable."""
    return new.type, new.tag, json.loads(new.data)


def test_table_covers_every_status() -> None:
    assert set(WAYS) == {None, *Status}


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (StartConversation(None, None), {}),
        (StartConversation("Tea", {"a": [1]}), {"title": "Tea", "metadata": {"a": [1]}}),
        (StartConversation("", {}), {"title": "", "metadata": {}}),
        (StartConversation(None, None, "default"), {}),
        (StartConversation(None, None, "acme"), {"tenant": "acme"}),
    ],
)
def test_start_conversation(command: StartConversation, data: dict[str, Any]) -> None:
    """Fields that were given empty are in the event; those not given are not."""
    (new,) = decide.decide_start(command)
    assert fields(new) == ("conversation.started", None, data)


@pytest.mark.parametrize("author", [None, "Ada"])
def test_post_message_is_always_accepted(author: str | None) -> None:
    """The decision takes no state at all."""
    (new,) = decide.decide_message(PostMessage("msg_1", "user", "hi", author, "anonymous"))
    named = {} if author is None else {"author": author}
    data = {"message": "msg_1", "role": "user", "content": "hi", "by": "anonymous", **named}
    assert fields(new) == ("message.posted", None, data)


def of_workflow(generation: str) -> NewEvent:
    return event_types.generation_requested(generation, workflow="w", parameters={}, by="anonymous")


@pytest.mark.parametrize(
    ("news", "into"),
    [
        ([], None),
        ([requested("gen_A")], "gen_A"),
        ([requested("gen_A"), started("gen_A")], "gen_A"),
        ([requested("gen_A"), started("gen_A"), completed("gen_A")], None),
        ([requested("gen_A"), requested("gen_B")], "gen_A"),
        ([requested("gen_A"), requested("gen_B"), started("gen_A"), completed("gen_A")], "gen_B"),
        ([of_workflow("gen_A")], None),
        ([of_workflow("gen_A"), requested("gen_B")], None),
    ],
    ids=["none", "queued", "running", "ended", "two", "the first has ended", "a workflow", "behind a workflow"],
)
def test_which_answer_takes_a_message(news: list[NewEvent], into: str | None) -> None:
    """The first that is open; a message behind a workflow is for the answer that comes next anyway."""
    state = fold(Conversation("conv_1"), rows([event_types.conversation_started(None, None), *news]))
    assert decide.answer_to_join(state) == into
    command = PostMessage("msg_1", "user", "hi", None, "anonymous", deliver="now")
    (new,) = decide.decide_message(command, into)
    assert fields(new)[2] == {
        "message": "msg_1",
        "role": "user",
        "content": "hi",
        "by": "anonymous",
        "deliver": "now",
        **({"into": into} if into is not None else {}),
    }


@pytest.mark.parametrize("status", list(WAYS))
def test_request_in_every_state(status: Status | None) -> None:
    if status in BUSY:
        with pytest.raises(Problem) as caught:
            decide.decide_request(state_with(status), ASK)
        assert (caught.value.status, caught.value.code) == (409, "generation_running")
        assert caught.value.extra == {"generation": "gen_A"}
        assert f"gen_A of this conversation is still {status}" in caught.value.detail
        assert caught.value.retry_after is None
        return
    (new,) = decide.decide_request(state_with(status), ASK)
    data = {"model": "demo", "parameters": {"tokens": 2}, "by": "anonymous"}
    assert fields(new) == ("generation.requested", "gen_B", data)


def test_older_running_generation_refuses_a_request() -> None:
    """Not only the newest one counts."""
    news = [
        event_types.conversation_started(None, None),
        requested("gen_A"),
        requested("gen_C"),
        cancelled("gen_C"),
    ]
    with pytest.raises(Problem, match="gen_A"):
        decide.decide_request(fold(Conversation("conv_1"), rows(news)), ASK)


def test_input_messages_come_before_the_request() -> None:
    numbers = count(1)
    said_first = (NewMessage("system", "be kind"), NewMessage("user", "hi"))
    command = RequestGeneration("gen_B", {}, "anonymous", model="demo", input=said_first)
    news = decide.decide_request(state_with(None), command, lambda prefix: f"{prefix}_{next(numbers)}")
    assert [fields(new)[0] for new in news] == ["message.posted", "message.posted", "generation.requested"]
    assert [fields(new)[2] for new in news[:2]] == [
        {"message": "msg_1", "role": "system", "content": "be kind", "by": "anonymous"},
        {"message": "msg_2", "role": "user", "content": "hi", "by": "anonymous"},
    ]


def test_messages_get_unique_ids() -> None:
    said_twice = (NewMessage("user", "hi"), NewMessage("user", "hi"))
    command = RequestGeneration("gen_B", {}, "anonymous", model="demo", input=said_twice)
    news = decide.decide_request(state_with(None), command)
    names = {fields(new)[2]["message"] for new in news[:2]}
    assert len(names) == 2
    assert all(ids.is_valid_id(name, "msg") for name in names)


@pytest.mark.parametrize("status", list(WAYS))
@pytest.mark.parametrize("reason", [None, "enough"])
def test_cancel_in_every_state(status: Status | None, reason: str | None) -> None:
    command = CancelGeneration("gen_A", reason, "anonymous")
    if status is None:
        with pytest.raises(Problem) as caught:
            decide.decide_cancel(state_with(status), command)
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        return
    news = decide.decide_cancel(state_with(status), command)
    if status in BUSY:
        told = {} if reason is None else {"reason": reason}
        assert [fields(new) for new in news] == [("generation.cancelled", "gen_A", {"by": "anonymous", **told})]
    else:
        assert news == ()


@pytest.mark.parametrize("status", list(WAYS))
def test_decided_events_can_be_folded(status: Status | None) -> None:
    """In the state that they were decided on."""
    before = state_with(status)
    for news in (
        decide.decide_message(PostMessage("msg_1", "user", "hi", None, "anonymous")),
        decide.decide_cancel(before, CancelGeneration("gen_A", None, "anonymous")) if status else (),
        () if status in BUSY else decide.decide_request(before, ASK),
    ):
        after = fold(before, rows(news, before.position))
        assert after.position == before.position + len(news)


def test_post_message_leaves_other_fields_alone() -> None:
    before = state_with(Status.RUNNING)
    after = fold(before, rows([said("msg_1", "wait")], before.position))
    assert after.generations == before.generations
