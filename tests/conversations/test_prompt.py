"""The prompt: what a provider is given of a conversation, and in which order."""

import pytest
from hypothesis import given

from eventstore import Event, NewEvent
from server import event_types
from server.conversations.command_types import NewMessage
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.conversations.prompt import TranscriptMessage, prompt_for, transcript
from server.conversations.state_machine import Status
from server.providers import Message, ToolSpec

from .event_builders import cancelled, completed, failed, no_deadline, requested, rows, said, started
from .log_strategies import logs

COLD = {"temperature": 0}
KEPT = {Status.COMPLETED, Status.CANCELLED}


def state_of(*news: NewEvent) -> Conversation:
    """The conversation after these events."""
    return fold(Conversation("conv_1"), rows([event_types.conversation_started(None, None), *news]))


def turns(*news: NewEvent, more: tuple[NewMessage, ...] = ()) -> list[tuple[str, str]]:
    """The prompt's turns after these events."""
    prompt = prompt_for(state_of(*news), "gpt-x", COLD, more=more)
    return [(message.role, message.content) for message in prompt.messages]


def answer_events(generation: str, text: str, end: NewEvent) -> list[NewEvent]:
    """A generation from its request to its end."""
    return [requested(generation), started(generation), event_types.token(generation, text), end]


def test_empty_conversation_is_an_empty_prompt() -> None:
    assert turns() == []


def test_prompt_has_model_and_parameters() -> None:
    prompt = prompt_for(Conversation("conv_1"), "gpt-x", COLD)
    assert (prompt.model, prompt.messages, prompt.parameters) == ("gpt-x", (), {"temperature": 0})


def test_messages_are_in_order_with_roles() -> None:
    assert turns(said("m1", "be kind", "system"), said("m2", "zzz"), said("m3", "aaa", "tool")) == [
        ("system", "be kind"),
        ("user", "zzz"),
        ("tool", "aaa"),
    ]


def test_answer_stands_at_its_request() -> None:
    """A message posted while it ran comes after it, though the log holds it before the answer's end."""
    news = [said("m1", "hi"), requested("gen_A"), started("gen_A"), event_types.token("gen_A", "hel")]
    news += [said("m2", "wait"), event_types.token("gen_A", "lo"), completed("gen_A"), said("m3", "bye")]
    assert turns(*news) == [("user", "hi"), ("assistant", "hello"), ("user", "wait"), ("user", "bye")]


@pytest.mark.parametrize(
    ("end", "kept"),
    [(completed("gen_A"), True), (cancelled("gen_A"), True), (failed("gen_A"), False)],
)
def test_ended_answers_in_the_prompt(end: NewEvent, kept: bool) -> None:
    """People saw a cancelled answer and go on from it; a failed one is requested again."""
    expected = [("user", "hi"), ("assistant", "hello")] if kept else [("user", "hi")]
    assert turns(said("m1", "hi"), *answer_events("gen_A", "hello", end)) == expected


def test_open_answer_is_left_out() -> None:
    assert turns(requested("gen_A"), started("gen_A"), event_types.token("gen_A", "hel")) == []
    assert turns(requested("gen_A")) == []


def test_empty_answer_is_left_out() -> None:
    assert turns(requested("gen_A"), cancelled("gen_A")) == []
    assert turns(*answer_events("gen_A", "", completed("gen_A"))) == []


def test_refusal_is_an_answer_and_reasoning_is_not() -> None:
    end = event_types.generation_completed("gen_A", "refusal", None, None, "I will not.")
    news = [said("m1", "hi"), requested("gen_A"), started("gen_A"), event_types.reasoning("gen_A", "hm")]
    assert turns(*news, end) == [("user", "hi"), ("assistant", "I will not.")]
    assert turns(*news, completed("gen_A")) == [("user", "hi")]


def test_input_comes_last() -> None:
    more = (NewMessage("system", "in French"), NewMessage("user", "again"))
    assert turns(said("m1", "hi"), *answer_events("gen_A", "hello", completed("gen_A")), more=more) == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("system", "in French"),
        ("user", "again"),
    ]


def test_equal_texts_are_not_merged() -> None:
    state = state_of(said("m1", "a"), said("m2", "a"))
    assert prompt_for(state, "x", {}).messages == (Message("user", "a"), Message("user", "a"))


TOOL = ToolSpec("refund", "Gives money back.", {"type": "object", "properties": {}})


def test_prompt_has_tools() -> None:
    assert prompt_for(Conversation("conv_1"), "x", {}, tools=(TOOL,)).tools == (TOOL,)
    assert prompt_for(Conversation("conv_1"), "x", {}).tools == ()


def test_own_answer_can_be_left_out() -> None:
    """The run that asks: its own text is no part of what it was asked."""
    state = state_of(said("m1", "hi"), *answer_events("gen_A", "hello", completed("gen_A")))
    assert [turn.role for turn in transcript(state)] == ["user", "assistant"]
    assert [turn.role for turn in transcript(state, without="gen_A")] == ["user"]
    assert len(prompt_for(state, "x", {}, without="gen_A").messages) == 1
    assert len(prompt_for(state, "x", {}, without="gen_B").messages) == 2


def test_turn_has_author_and_position() -> None:
    news = [event_types.message_posted("m1", "user", "hi", "Ada", "key_1")]
    state = state_of(*news, *answer_events("gen_A", "hello", completed("gen_A")))
    assert transcript(state) == (
        TranscriptMessage("user", "hi", 2, "Ada", "key_1"),
        TranscriptMessage("assistant", "hello", 3),
    )


@no_deadline
@given(log=logs())
def test_turns_of_any_log(log: list[Event]) -> None:
    """All messages and kept answers, each once, by position, and nothing else."""
    state = fold(Conversation("conv_1"), log)
    turns = transcript(state)
    positions = [turn.position for turn in turns]
    assert positions == sorted(set(positions))
    kept = {found.requested_position for found in state.generations if found.status in KEPT and found.text}
    assert set(positions) == kept | {message.position for message in state.messages}
