"""The prompt: what an upstream is told of a conversation, in one order."""

import pytest

from eventstore import NewEvent
from server import events
from server.generation.commands import RequestGeneration, Said
from server.generation.fold import fold
from server.generation.prompt import prompt_for
from server.generation.state import Conversation
from server.upstream import Message

from .rows import cancelled, completed, failed, requested, rows, said, started

ASK = RequestGeneration("gen_Z", "openai/gpt-x", {"temperature": 0}, (), "anonymous")


def turns(*news: NewEvent, ask: RequestGeneration = ASK) -> list[tuple[str, str]]:
    """The prompt's turns after these events."""
    state = fold(Conversation("conv_1"), rows([events.conversation_started(None, None), *news]))
    return [(message.role, message.content) for message in prompt_for(state, ask, "gpt-x").messages]


def answer(generation: str, text: str, end: NewEvent) -> list[NewEvent]:
    """A generation from its request to its end."""
    return [requested(generation), started(generation), events.token(generation, text), end]


def test_nothing_said_is_an_empty_prompt() -> None:
    assert turns() == []


def test_the_model_and_the_parameters_are_handed_on() -> None:
    prompt = prompt_for(Conversation("conv_1"), ASK, "gpt-x")
    assert (prompt.model, prompt.messages, prompt.parameters) == ("gpt-x", (), {"temperature": 0})


def test_messages_come_oldest_first_with_their_roles() -> None:
    assert turns(said("m1", "be kind", "system"), said("m2", "zzz"), said("m3", "aaa", "tool")) == [
        ("system", "be kind"),
        ("user", "zzz"),
        ("tool", "aaa"),
    ]


def test_an_answer_stands_where_it_was_asked_for() -> None:
    """What was said while it ran comes behind it, though it stands in the log before the answer's end."""
    news = [said("m1", "hi"), requested("gen_A"), started("gen_A"), events.token("gen_A", "hel")]
    news += [said("m2", "wait"), events.token("gen_A", "lo"), completed("gen_A"), said("m3", "bye")]
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
    assert turns(requested("gen_A"), started("gen_A"), events.token("gen_A", "hel")) == []
    assert turns(requested("gen_A")) == []


def test_an_answer_without_text_leaves_no_empty_turn() -> None:
    assert turns(requested("gen_A"), cancelled("gen_A")) == []
    assert turns(*answer("gen_A", "", completed("gen_A"))) == []


def test_the_input_comes_last() -> None:
    ask = RequestGeneration("gen_Z", "demo", {}, (Said("system", "in French"), Said("user", "again")), "anonymous")
    assert turns(said("m1", "hi"), *answer("gen_A", "hello", completed("gen_A")), ask=ask) == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("system", "in French"),
        ("user", "again"),
    ]


def test_equal_texts_are_not_merged() -> None:
    state = fold(
        Conversation("conv_1"), rows([events.conversation_started(None, None), said("m1", "a"), said("m2", "a")])
    )
    assert prompt_for(state, ASK, "x").messages == (Message("user", "a"), Message("user", "a"))
