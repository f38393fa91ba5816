"""The demo provider with tools: its turns, its calls, and the parameters that it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from server.providers import BadParameters, Finish, Message, Prompt, ToolCall, ToolSpec
from server.providers.demo import MAX_CALLS, Demo, aside, whole_story

from .answer_reader import ReadAnswer, prompt, read_answer

TOOLS = tuple(ToolSpec(name, "", {"type": "object"}) for name in ("weather", "now"))
CALLS = [{"name": "weather", "arguments": {"city": "Zürich", "n": [1, 2.5]}}, {"name": "now", "arguments": {}}]
WEATHER = '{"city": "Zürich", "n": [1, 2.5]}'


def agent(calls: Any = CALLS, **parameters: Any) -> Prompt:
    return replace(prompt("demo", "two words", calls=calls, **{"rate": 0, **parameters}), tools=TOOLS)


def next_prompt(asked: Prompt, seen: ReadAnswer, *more: Message) -> Prompt:
    """The prompt of the next turn: the answer with its calls, and a one-word result for each."""
    assert seen.finish is not None
    calls = seen.finish.tool_calls
    turn = (Message("assistant", "", calls), *(Message("tool", "done", call=call.id) for call in calls))
    return replace(asked, messages=(*asked.messages, *turn, *more))


async def test_demo_calls_one_tool_a_turn_and_then_answers() -> None:
    asked = agent(tokens=30, seed=7)
    first = await read_answer(Demo(), asked)
    said = aside(7, 0)
    assert first.texts == said
    usage = {"input_tokens": 2, "output_tokens": len(said)}
    assert first.finish == Finish("tool_calls", usage, (ToolCall("demo_0", "weather", WEATHER),))
    assert (await read_answer(Demo(), asked)) == first

    asked = next_prompt(asked, first)
    second = await read_answer(Demo(), asked)
    assert second.texts == aside(7, 1)
    assert second.finish is not None
    assert second.finish.tool_calls == (ToolCall("demo_1", "now", "{}"),)

    third = await read_answer(Demo(), next_prompt(asked, second))
    assert third.texts == list(whole_story(7, 30))
    assert third.finish == Finish("stop", {"input_tokens": 4, "output_tokens": 30})


async def all_calls(asked: Prompt) -> list[tuple[str, str]]:
    """All calls before the final text, as (id, name)."""
    made: list[tuple[str, str]] = []
    while True:
        seen = await read_answer(Demo(), asked)
        assert seen.finish is not None
        if not seen.finish.tool_calls:
            return made
        made += [(call.id, call.name) for call in seen.finish.tool_calls]
        asked = next_prompt(asked, seen)


async def test_user_message_restarts_the_calls_with_other_ids() -> None:
    asked = agent()
    asked = next_prompt(asked, await read_answer(Demo(), asked), Message("user", "again"))
    assert await all_calls(asked) == [("demo_1", "weather"), ("demo_2", "now")]


@pytest.mark.parametrize("role", ["system", "tool", "assistant"])
async def test_other_messages_do_not_restart_the_calls(role: str) -> None:
    asked = agent()
    asked = next_prompt(asked, await read_answer(Demo(), asked), Message(role, "hm"))
    assert await all_calls(asked) == [("demo_1", "now")]


async def test_turn_with_several_calls_is_one_turn() -> None:
    pair = (ToolCall("x", "now", "{}"), ToolCall("y", "now", "{}"))
    results = tuple(Message("tool", "r", call=call.id) for call in pair)
    asked = agent()
    asked = replace(asked, messages=(*asked.messages, Message("assistant", "", pair), *results))
    assert await all_calls(asked) == [("demo_2", "now")]
    assert await all_calls(replace(asked, parameters={**asked.parameters, "calls": []})) == []


async def test_turns_without_a_user_message_all_count() -> None:
    asked = replace(agent(), messages=(Message("assistant", "", (ToolCall("x", "now", "{}"),)),))
    assert await all_calls(asked) == [("demo_1", "now")]


async def test_sentence_comes_at_the_rate(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    seen = await read_answer(Demo(), agent(rate=4))
    assert [len(batch) for batch in seen.batches] == [1] * len(aside(1, 0))
    assert trio.current_time() - start == pytest.approx((len(seen.texts) - 1) / 4)


@given(st.integers(0, 2**63 - 1), st.integers(0, MAX_CALLS))
def test_sentences_are_short_and_whole(seed: int, number: int) -> None:
    said = aside(seed, number)
    assert 3 <= len(said) <= 16
    assert said == aside(seed, number)
    assert all(chunk.strip() and chunk.endswith(" ") for chunk in said)
    assert "".join(said)[-2] in ".”"
    assert not any(slot in "".join(said) for slot in ("ADJ", "THING", "PERSON", "PLACE"))


def test_sentences_are_fixed() -> None:
    """A restarted run must produce the same in every version of Python."""
    assert "".join(aside(1, 0)) == "That is not in the kettle; the clerk goes to ask. "
    assert "".join(aside(1, 1)) == "Before it goes on, the postmistress wants to be sure. "


def call(**changes: Any) -> dict[str, Any]:
    return {"name": "now", "arguments": {}, **changes}


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("calls", "field", "says"),
    [
        (None, "", "at most 20"),
        ({}, "", "at most 20"),
        ([call()] * 21, "", "at most 20"),
        (["now"], ".0", "`name` and `arguments`"),
        ([call(), call(id="x")], ".1", "`name` and `arguments`"),
        ([{"arguments": {}}], ".0.name", "tool's name"),
        ([call(name=None)], ".0.name", "tool's name"),
        ([call(), call(name="later")], ".1.name", "knows weather, now"),
        ([call(name="")], ".0.name", "knows weather, now"),
        ([{"name": "now"}], ".0.arguments", "must be an object"),
        ([call(), call(arguments=[])], ".1.arguments", "must be an object"),
        ([call(arguments="{}")], ".0.arguments", "must be an object"),
        ([call(arguments={"x": math.nan})], ".0.arguments", "JSON"),
        ([call(arguments={"x": object()})], ".0.arguments", "JSON"),
        ([call(arguments={"x": DEEP})], ".0.arguments", "JSON"),
    ],
    ids=range(15),
)
async def test_bad_calls_name_the_field(calls: Any, field: str, says: str) -> None:
    with pytest.raises(BadParameters, match=says) as caught:
        Demo().check(agent(calls))
    assert caught.value.field == f"parameters.calls{field}"
    with pytest.raises(BadParameters):
        async with Demo().open(agent(calls)):
            pytest.fail("opened")


def test_calls_without_tools_are_refused() -> None:
    with pytest.raises(BadParameters, match="has no tools"):
        Demo().check(prompt("demo", calls=[call()]))
    Demo().check(prompt("demo", calls=[]))
    Demo().check(agent([call()] * MAX_CALLS))
