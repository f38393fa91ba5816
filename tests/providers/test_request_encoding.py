"""Prompts with tool calls: the order of results, the arguments sent, and acceptance by strict providers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers import Message, Prompt, ToolCall, ToolSpec, anthropic, chat_completions
from server.providers.request_encoding import group_turns, is_tool_result, sent_arguments

from .request_validation import reason_to_refuse

A, B = ToolCall("a", "x", "{}"), ToolCall("b", "y", "{}")


def result(call: str | None, content: str = "r") -> Message:
    return Message("tool", content, call=call)


def said(role: str, *calls: ToolCall) -> Message:
    return Message(role, role, calls)


@pytest.mark.parametrize(
    ("message", "whether"),
    [
        (result("a"), True),
        (result(""), True),  # some servers give no ids, and want none
        (result(None), False),
        (Message("user", "r", call="a"), False),
        (said("assistant", A), False),
    ],
)
def test_which_messages_are_tool_results(message: Message, whether: bool) -> None:
    assert is_tool_result(message) is whether


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([], []),
        ([said("user"), said("system"), said("user")], [[0, 1, 2]]),
        ([said("user"), said("assistant", A, B), result("b"), result("a")], [[0], [1], [2, 3]]),
        # People and others speak while the tools run.
        (
            [said("assistant", A, B), said("user"), result("a"), result(None), said("system"), result("b")],
            [[0], [2, 5, 1, 3, 4]],
        ),
        # What is said between two turns of calls stays between them.
        (
            [said("assistant", A), result("a"), said("user"), said("assistant", B), said("user"), result("b")],
            [[0], [1, 2], [3], [5, 4]],
        ),
        ([said("assistant"), said("assistant", A), result("a")], [[0, 1], [2]]),
    ],
)
def test_results_follow_their_calls(given: list[Message], order: list[list[int]]) -> None:
    assert [[id(message) for message in turn] for turn in group_turns(given)] == [
        [id(given[number]) for number in turn] for turn in order
    ]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"q": 1.50, "n": 123456789012345678901234567890}', None),
        (' {"é": "😀"}\n', None),
        ("{}", None),
        ("", "{}"),
        (" ", "{}"),
        ("[1]", "{}"),
        ("null", "{}"),
        ('"q"', "{}"),
        ('{"q": ', "{}"),
        ('{"q": "a\nb"}', "{}"),
        ('{"q": NaN}', "{}"),
        ('{"q": "\\ud83d"}', "{}"),
        ('{"q": "\ud83d"}', "{}"),
        ('{"q": 1} and more', "{}"),
        ('{"q": ' + "[" * 100_000 + "]" * 100_000 + "}", "{}"),
    ],
)
def test_non_object_arguments_are_sent_as_an_empty_object(arguments: str, sent: str | None) -> None:
    call = ToolCall("a", "x", arguments)
    assert sent_arguments(call) == (arguments if sent is None else sent)
    asked = Prompt("m", (Message("assistant", "", (call,)), result("a")), {})
    assert reason_to_refuse(json.loads(chat_completions.encode_body(asked))) is None
    assert reason_to_refuse(json.loads(anthropic.encode_body(asked, 1))) is None


@given(st.text(max_size=30) | st.dictionaries(st.text(), st.integers() | st.text()).map(json.dumps))
def test_any_arguments_can_be_encoded(arguments: str) -> None:
    assert isinstance(json.loads(sent_arguments(ToolCall("a", "x", arguments))), dict)


TEXT = st.sampled_from(["", " ", "a", "b\n", "é 😀"])
POSTED = st.builds(Message, st.sampled_from(["user", "system", "developer", "tool"]), TEXT)
TOOLS = tuple(ToolSpec(name, "", {"type": "object"}) for name in ("x", "y"))


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Any history in which every call has its result, before the assistant speaks again."""
    history = [Message("user", "go")]
    for turn in range(draw(st.integers(0, 4))):
        names = draw(st.lists(st.sampled_from("xy"), max_size=3))
        calls = tuple(
            ToolCall(f"call_{turn}_{number}", name, draw(st.sampled_from(["", "{}", '{"k": 1}', "oh"])))
            for number, name in enumerate(names)
        )
        history.append(Message("assistant", draw(TEXT), calls))
        results = [result(call.id, draw(TEXT)) for call in calls]
        history += draw(st.permutations(results + draw(st.lists(POSTED, max_size=3))))
    return history


@given(conversations(), st.sampled_from([(), TOOLS]))
def test_strict_providers_accept_any_history(history: list[Message], tools: tuple[ToolSpec, ...]) -> None:
    prompt = Prompt("m", tuple(history), {}, tools)
    openai = json.loads(chat_completions.encode_body(prompt))
    assert reason_to_refuse(openai) is None
    assert len(openai["messages"]) == sum(bool(m.text.strip() or m.calls or m.call) for m in history)
    messages = json.loads(anthropic.encode_body(prompt, 1))
    assert reason_to_refuse(messages) is None
    for body in (openai, messages):  # nothing but blanks is lost
        text = json.dumps(body, ensure_ascii=False)
        assert all(json.dumps(m.text, ensure_ascii=False)[1:-1] in text for m in history if m.text.strip())


USER: dict[str, Any] = {"role": "user", "content": "a"}
USES = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "x", "input": {}}]}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "x", "arguments": "{}"}}],
}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"messages": [CALLS]}, "without a result at the end"),
        ({"messages": [CALLS, USER]}, "without a result"),
        ({"messages": [USER, {"role": "tool", "content": "r"}]}, "of no call"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "a", "content": "r"}]}, "of no call"),
        ({"messages": [{**CALLS, "content": ""}]}, "empty beside"),
        ({"messages": [USER], "tools": []}, "empty"),
        ({"messages": [USES], "max_tokens": 1}, "do not match"),
        ({"messages": [USES, USER], "max_tokens": 1}, "do not match"),
        ({"messages": [USER, USER], "max_tokens": 1}, "alternate"),
        ({"messages": [{"role": "user", "content": " "}], "max_tokens": 1}, "blank"),
        ({"messages": [USER], "tools": [], "max_tokens": 1}, "empty"),
    ],
)
def test_request_validation_is_strict(body: dict[str, Any], says: str) -> None:
    assert says in (reason_to_refuse(body) or "")
