"""The demo provider with a text to say, and with messages that are put into its answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers import Message, Prompt, ToolSpec
from server.providers.demo import Demo, rest_of_script

from .answer_reader import prompt, read_answer

SAY = "First ask what it costs them today.\n\nThen be quiet, and let them count."
ASKED = Message("user", "They say it is too expensive.")
TOLD = Message("user", "They pay 40 euros an hour")


async def test_a_text_is_said_word_for_word() -> None:
    seen = await read_answer(Demo(), prompt("demo", "Hello", say=SAY, rate=0))
    assert "".join(seen.texts) == SAY
    assert len(seen.texts) == len(SAY.split())
    assert seen.finish is not None
    assert seen.finish.usage == {"input_tokens": 1, "output_tokens": len(SAY.split())}


def said(*messages: Message) -> str:
    return "".join(rest_of_script(SAY, messages).chunks)


def test_a_message_in_the_middle_is_repeated_and_the_text_goes_on() -> None:
    first, rest = SAY[:20], SAY[20:]
    before = (ASKED, Message("assistant", first), TOLD)
    assert said(*before) == f"(Noted: “They pay 40 euros an hour”) {rest}"
    # A second one, after some more of the text.
    more = "(Noted: “They pay 40 euros an hour”) " + rest[:5]
    assert (
        said(*before, Message("assistant", more), Message("user", "In cash.")) == f"(Noted: “In cash.”) {rest[5:]}"
    )
    # One that comes before the first was repeated.
    assert said(*before, Message("assistant", "(Noted: “They "), TOLD).endswith(rest)


def test_a_long_message_is_repeated_in_a_few_words() -> None:
    long = Message("user", " ".join(map(str, range(50))))
    assert said(ASKED, Message("assistant", SAY[:6]), long).startswith("(Noted: “0 1 2 3 4 5 6 7 8 9 10 11…”) ")


@pytest.mark.parametrize("earlier", [SAY, "Something else.", ""])
def test_another_question_is_answered_from_the_beginning(earlier: str) -> None:
    assert said(ASKED, Message("assistant", earlier), TOLD) == SAY
    assert rest_of_script(SAY, [ASKED]).goes_on is False


@given(st.lists(st.integers(1, 8), max_size=8), st.lists(st.text("ab “”(.)", max_size=20), min_size=8, max_size=8))
def test_wherever_it_is_cut_nothing_of_the_text_is_lost(cuts: list[int], notes: list[str]) -> None:
    """Each part is asked for with all parts before it, as an answer does."""
    messages = [ASKED]
    parts = []
    for cut, note in zip(cuts, notes, strict=False):
        script = rest_of_script(SAY, messages)
        if len(script.chunks) <= cut:
            break
        parts.append("".join(script.chunks[:cut]))
        messages += [Message("assistant", parts[-1]), Message("user", note)]
    parts.append("".join(rest_of_script(SAY, messages).chunks))
    words = [word for word in "".join(parts).split() if word in SAY.split()]
    whole = iter(words)
    assert all(word in whole for word in SAY.split())


async def test_no_call_is_made_again_for_a_message() -> None:
    tools = (ToolSpec("card", "A card.", {"type": "object"}),)
    calls = [{"name": "card", "arguments": {}}]
    asked: Prompt = replace(prompt("demo", "Hello", say=SAY, rate=0, calls=calls), tools=tools)
    first = await read_answer(Demo(), asked)
    assert first.finish is not None
    assert [call.name for call in first.finish.tool_calls] == ["card"]
    assert first.texts == []
    turn = (
        Message("assistant", "", first.finish.tool_calls),
        Message("tool", "done", call=first.finish.tool_calls[0].id),
    )
    cut = replace(asked, messages=(*asked.messages, *turn, Message("assistant", SAY[:10]), TOLD))
    goes_on = await read_answer(Demo(), cut)
    assert goes_on.finish is not None
    assert goes_on.finish.tool_calls == ()
    assert "".join(goes_on.texts).endswith(SAY[10:])
