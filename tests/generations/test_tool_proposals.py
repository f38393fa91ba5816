"""Proposals of tool calls: the `tool.proposed` event, and the immediate end of a call that cannot run."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from server import ids
from server.conversations.tool_call_fold import ToolCalls, fold_tool_calls
from server.event_types import EventType
from server.generations.tool_execution import expiry, outcome_of, propose_call
from server.providers import ToolCall
from server.workflows import AnyTool, ClientTool, digest, tool
from tests.conversations.event_builders import moment

G = "gen_1"
NOW = moment(10)


@tool
async def refund(order: int, why: str = "") -> str:
    """Gives money back."""
    return "done"


@tool(approval="never", name="look-up")
def look_up(order: int) -> str:
    """Looks it up."""
    return "found"


@tool(approval=lambda amount: amount > 50, expires=None)
def book(amount: int) -> str:
    """Books it."""
    return "booked"


SHIP = ClientTool({"name": "ship", "description": "Ships it.", "approval": "never"})
ASKED = ClientTool({"name": "sign", "description": "Signs it.", "expires": 5.0})
TOOLS: dict[str, AnyTool] = {one.name: one for one in (refund, look_up, book, SHIP, ASKED)}


class ProposalContext:
    """The part of a run's log that proposing needs."""

    generation = G
    calls: ToolCalls = ()


def proposal_fields(name: str, arguments: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The fields of the proposal and of the end after it, if any."""
    wanted = ToolCall("its_1", name, arguments)
    call, news = propose_call(ProposalContext(), "answer/1", wanted, TOOLS, NOW)  # type: ignore[arg-type]
    assert ids.is_valid_id(call, "call")
    first, *rest = (msgspec.json.decode(new.data) for new in news)
    assert [new.type for new in news] == ["tool.proposed", "tool.finished"][: len(news)]
    assert all(new.tag == G for new in news)
    assert {one.pop("call") for one in (first, *rest)} == {call}
    assert first["arguments_digest"] == digest(first["arguments"]), "always that of what is shown"
    assert (first["step"], first["name"]) == ("answer/1", name.encode(errors="replace").decode())
    return first, rest[0] if rest else None


@pytest.mark.parametrize(
    ("name", "arguments", "shown", "asks", "client", "seconds"),
    [
        ("refund", '{"order": 7}', {"order": 7, "why": ""}, True, False, 3600),
        ("refund", '{"order": 9007199254740993}', {"order": 9007199254740993, "why": ""}, True, False, 3600),
        ("refund", '{"order":7,"why":"é"}', {"order": 7, "why": "é"}, True, False, 3600),
        ("look-up", '{"order": 7}', {"order": 7}, False, False, None),
        ("book", '{"amount": 50}', {"amount": 50}, False, False, None),
        ("book", '{"amount": 51}', {"amount": 51}, True, False, None),
        ("ship", "", {}, False, True, None),
        ("ship", '{"any": [1, {"a": null}]}', {"any": [1, {"a": None}]}, False, True, None),
        ("sign", "{}", {}, True, True, 5),
    ],
)
def test_runnable_call_is_proposed(
    name: str, arguments: str, shown: dict[str, Any], asks: bool, client: bool, seconds: float | None
) -> None:
    """It needs approval as its tool's policy says; only a call that needs approval expires."""
    first, end = proposal_fields(name, arguments)
    assert end is None
    assert (first["arguments"], first["needs_approval"], first.get("client", False)) == (shown, asks, client)
    expected = expiry(NOW, seconds)
    assert first.get("expires_at") == (None if expected is None else f"{expected:%Y-%m-%dT%H:%M:%S.%fZ}")


@pytest.mark.parametrize(
    ("name", "arguments", "shown", "code", "message"),
    [
        ("refund", '{"order": 7', {}, "invalid_arguments", "no JSON object: '{\"order\": 7'"),
        ("refund", "[7]", {}, "invalid_arguments", "no JSON object"),
        ("refund", "null", {}, "invalid_arguments", "no JSON object"),
        ("refund", '"{}"', {}, "invalid_arguments", "no JSON object"),
        ("refund", "[" * 100_000, {}, "invalid_arguments", "no JSON object"),
        ("refund", "{" + "x" * 9_000, {}, "invalid_arguments", "no JSON object"),
        ("refund", '{"order": 99999999999999999999999}', {}, "invalid_arguments", "64 bits"),
        ("refund", '{"order": NaN}', {}, "invalid_arguments", ""),
        ("refund", '{"order": 1e999}', {}, "invalid_arguments", ""),
        ("refund", '{"order": "7"}', {"order": "7"}, "invalid_arguments", "order: "),
        ("refund", "{}", {}, "invalid_arguments", "order: "),
        ("refund", '{"order": 7, "x": 1}', {"order": 7, "x": 1}, "invalid_arguments", "x: "),
        ("nothing", '{"order": 7}', {"order": 7}, "unknown_tool", "there is no tool 'nothing'"),
        ("nothing", "{", {}, "invalid_arguments", "no JSON object"),
    ],
)
def test_invalid_call_ends_at_once(
    name: str, arguments: str, shown: dict[str, Any], code: str, message: str
) -> None:
    """Nobody is asked to decide on it; the model is told what was wrong."""
    first, end = proposal_fields(name, arguments)
    assert (first["arguments"], first["needs_approval"]) == (shown, False)
    assert "expires_at" not in first
    assert end is not None
    assert end["error"]["code"] == code
    assert message in end["error"]["message"]
    assert len(end["error"]["message"]) < 1_000


def test_unpaired_surrogate_is_shown_repaired() -> None:
    """The person decides on the same text that the tool gets."""
    first, end = proposal_fields("refund", '{"order": 7, "why": "\\ud83d"}')
    assert (first["arguments"], end) == ({"order": 7, "why": "\ufffd"}, None)
    assert "hidden_characters" not in first, "it is seen"


def test_proposal_and_end_fold_to_a_finished_call() -> None:
    found: ToolCalls = ()
    wanted = ToolCall("its_1", "nothing", "{}")
    call, news = propose_call(ProposalContext(), "answer/1", wanted, TOOLS, NOW)  # type: ignore[arg-type]
    for position, new in enumerate(news, 1):
        found = fold_tool_calls(found, EventType(new.type), msgspec.json.decode(new.data), position)
    assert [one.call for one in found] == [call]
    assert found[0].status == "finished"
    assert outcome_of(found[0]) == {"error": found[0].error}


@pytest.mark.parametrize(("seconds", "at"), [(None, None), (0.5, NOW + timedelta(milliseconds=500))])
def test_expiry(seconds: float | None, at: Any) -> None:
    assert expiry(NOW, seconds) == at
