"""The prompt: what an upstream is told of a conversation, in one order."""

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


def answer(generation: str, text: str, end: NewEvent) -> list[NewEvent]:
    """A generation from its request to its end."""
    return [requested(generation), started(generation), event_types.token(generation, text), end]


def test_nothing_said_is_an_empty_prompt() -> None:
    assert turns() == []


def test_the_model_and_the_parameters_are_handed_on() -> None:
    prompt = prompt_for(Conversation("conv_1"), "gpt-x", COLD)
    assert (prompt.model, prompt.messages, prompt.parameters) == ("gpt-x", (), {"temperature": 0})


def test_messages_come_oldest_first_with_their_roles() -> None:
    assert turns(said("m1", "be kind", "system"), said("m2", "zzz"), said("m3", "aaa", "tool")) == [
        ("system", "be kind"),
        ("user", "zzz"),
        ("tool", "aaa"),
    ]


def test_an_answer_stands_where_it_was_asked_for() -> None:
    """What was said while it ran comes behind it, though it stands in the log before the answer's end."""
    news = [said("m1", "hi"), requested("gen_A"), started("gen_A"), event_types.token("gen_A", "hel")]
    news += [said("m2", "wait"), event_types.token("gen_A", "lo"), completed("gen_A"), said("m3", "bye")]
    assert turns(*news) == [("user", "hi"), ("assistant", "hello"), ("user", "wait"), ("user", "bye")]


@pytest.mark.parametrize(
    ("end", "kept"),
    [(completed("gen_A"), True), (cancelled("gen_A"), True), (failed("gen_A"), False)],
)
def test_which_answers_are_kept(end: NewEvent, kept: bool) -> None:
    """People saw a cancelled answer and go on from there; a failed one is asked for again."""
    expected = [("user", "hi"), ("assistant", "hello")] if kept else [("user", "hi")]
    assert turns(said("m1", "hi"), *answer("gen_A", "hello", end)) == expected


def test_one_that_has_not_ended_is_not_told() -> None:
    assert turns(requested("gen_A"), started("gen_A"), event_types.token("gen_A", "hel")) == []
    assert turns(requested("gen_A")) == []


def test_an_answer_without_text_leaves_no_empty_turn() -> None:
    assert turns(requested("gen_A"), cancelled("gen_A")) == []
    assert turns(*answer("gen_A", "", completed("gen_A"))) == []


def test_the_words_of_a_refusal_are_an_answer_and_thoughts_are_not() -> None:
    end = event_types.generation_completed("gen_A", "refusal", None, None, "I will not.")
    news = [said("m1", "hi"), requested("gen_A"), started("gen_A"), event_types.reasoning("gen_A", "hm")]
    assert turns(*news, end) == [("user", "hi"), ("assistant", "I will not.")]
    assert turns(*news, completed("gen_A")) == [("user", "hi")]


def test_the_input_comes_last() -> None:
    more = (NewMessage("system", "in French"), NewMessage("user", "again"))
    assert turns(said("m1", "hi"), *answer("gen_A", "hello", completed("gen_A")), more=more) == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("system", "in French"),
        ("user", "again"),
    ]


def test_equal_texts_are_not_merged() -> None:
    state = state_of(said("m1", "a"), said("m2", "a"))
    assert prompt_for(state, "x", {}).messages == (Message("user", "a"), Message("user", "a"))


TOOL = ToolSpec("refund", "Gives money back.", {"type": "object", "properties": {}})


def test_the_tools_are_handed_on() -> None:
    assert prompt_for(Conversation("conv_1"), "x", {}, tools=(TOOL,)).tools == (TOOL,)
    assert prompt_for(Conversation("conv_1"), "x", {}).tools == ()


def test_one_answer_may_be_left_out() -> None:
    """The run that asks: what it has said itself is no part of what was said to it."""
    state = state_of(said("m1", "hi"), *answer("gen_A", "hello", completed("gen_A")))
    assert [turn.role for turn in transcript(state)] == ["user", "assistant"]
    assert [turn.role for turn in transcript(state, without="gen_A")] == ["user"]
    assert len(prompt_for(state, "x", {}, without="gen_A").messages) == 1
    assert len(prompt_for(state, "x", {}, without="gen_B").messages) == 2


def test_a_turn_says_who_spoke_and_where() -> None:
    news = [event_types.message_posted("m1", "user", "hi", "Ada", "key_1")]
    state = state_of(*news, *answer("gen_A", "hello", completed("gen_A")))
    assert transcript(state) == (
        TranscriptMessage("user", "hi", 2, "Ada", "key_1"),
        TranscriptMessage("assistant", "hello", 3),
    )


@no_deadline
@given(log=logs())
def test_the_turns_of_any_log(log: list[Event]) -> None:
    """All messages, and the answers that are kept, each once, by position; nothing else."""
    state = fold(Conversation("conv_1"), log)
    turns = transcript(state)
    positions = [turn.position for turn in turns]
    assert positions == sorted(set(positions))
    kept = {found.requested_position for found in state.generations if found.status in KEPT and found.text}
    assert set(positions) == kept | {message.position for message in state.messages}
