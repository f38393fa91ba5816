"""The prompt: what a provider is given of a conversation, and in which order."""

import pytest
from hypothesis import given

from eventstore import Event, NewEvent
from server import event_types
from server.conversations.command_types import NewMessage
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.conversations.prompt import TranscriptMessage, first_prompt, prompt_for, transcript
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
    return [(message.role, message.text) for message in prompt.messages]


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
    """All messages and the whole text of kept answers, each once, and nothing else."""
    state = fold(Conversation("conv_1"), log)
    turns = transcript(state)
    posted = [(turn.content, turn.position) for turn in turns if turn.by is not None]
    assert sorted(posted, key=lambda each: each[1]) == [(one.content, one.position) for one in state.messages]
    kept = [found for found in state.generations if found.status in KEPT]
    said = "".join(str(turn.content) for turn in turns if turn.by is None)
    assert said == "".join(found.text or found.refusal or "" for found in kept)
    inside = {applied.message for found in kept for applied in found.applied}
    outside = [turn.position for turn in turns if turn.by is not None and _id(state, turn.position) not in inside]
    assert outside == sorted(outside)


def _id(state: Conversation, position: int) -> str:
    return next(one.id for one in state.messages if one.position == position)


IN_ANSWER = [
    *(said("m1", "count"), requested("gen_A"), started("gen_A"), event_types.token("gen_A", "one ")),
    event_types.message_posted("m2", "user", "in German", None, "anonymous", "now", "gen_A"),
    said("m3", "for the next one"),
    *(event_types.token("gen_A", "two "), event_types.message_applied("gen_A", "m2")),
]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            [event_types.token("gen_A", "drei"), completed("gen_A")],
            ["count", "one two ", "in German", "drei", "for the next one"],
        ),
        ([cancelled("gen_A")], ["count", "one two ", "in German", "for the next one"]),
        ([failed("gen_A")], ["count", "in German", "for the next one"]),
        ([], ["count", "in German", "for the next one"]),
    ],
    ids=["completed", "cancelled", "failed", "running"],
)
def test_a_message_stands_in_the_answer_that_took_it(more: list[NewEvent], expected: list[str]) -> None:
    """Between what was said before and after. Where the answer is not told, it stands where it was posted."""
    assert [content for _, content in turns(*IN_ANSWER, *more)] == expected


def test_a_later_attempt_that_has_not_come_so_far() -> None:
    """It was cancelled before it had written its text again."""
    news = [*IN_ANSWER, started("gen_A", 2), event_types.token("gen_A", "o"), cancelled("gen_A")]
    assert [content for _, content in turns(*news)] == ["count", "o", "in German", "for the next one"]


def test_first_prompt_of_an_answer() -> None:
    """Without the messages that are put into it; those that wait are named. As of an earlier position, if
    asked."""
    state = state_of(*IN_ANSWER, event_types.message_posted("m4", "user", "x", None, "Ada", "now", "gen_A"))
    found = state.generations[0]
    first = first_prompt(state, found, "gpt-x")
    assert [one.content for one in first.prompt.messages] == ["count", "for the next one"]
    assert [one.id for one in first.waiting] == ["m4"]
    assert first.position == state.position
    earlier = first_prompt(state, found, "gpt-x", until=3)
    assert [one.content for one in earlier.prompt.messages] == ["count"]
    assert earlier.position == 3
