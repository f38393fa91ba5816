"""How the command shows reasoning and pieces of tool calls, on a terminal and on a pipe.

They must be visible and marked, and never part of the answer on standard output.
"""

import io
import re

import pytest
from rich.console import Console

from server.cli.terminal.event_format import Asides, Event, StatusLine, TextEventPrinter, summary
from server.cli.terminal.live_output import LiveOutput
from server.cli.terminal.output import PlainOutput

CALL = "call_" + "0" * 26
OTHER = "call_" + "1" * 26


def token(delta: str) -> Event:
    return {"type": "token", "position": 1, "delta": delta}


def thought(delta: str) -> Event:
    return {"type": "reasoning", "position": 1, "delta": delta}


def piece(delta: str, call: str = CALL, **more: str) -> Event:
    return {"type": "tool.arguments", "position": 1, "call": call, "delta": delta, **more}


STARTED: Event = {"type": "generation.started", "position": 9, "attempt": 1, "worker": "w"}
MIXED = [
    *(thought("let "), thought("me\n\nsee"), token("so "), token("now\n"), thought("hm\n"), thought(" then")),
    *(piece('{"order', name="refund"), piece("{", OTHER, name="a\u202eb"), piece('": 7}'), STARTED, token("done")),
]
SHOWN = """thinking: let me

thinking: see
so now
thinking: hm
thinking:  then
arguments of refund: {"order
arguments of a\\u202eb: {
arguments of refund: ": 7}
     9  generation.started  attempt=1  worker=w
done
"""


def test_tail_and_replay_mark_each_line_on_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """In their order; a line that continues is not marked again."""
    with PlainOutput() as output:
        TextEventPrinter(output).print_events(MIXED)
    assert capsys.readouterr() == (SHOWN, "")


def test_chat_prints_reasoning_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output holds only the answer."""
    with PlainOutput(asides_apart=True) as output:
        TextEventPrinter(output).print_events([event for event in MIXED if event is not STARTED])
        output.note("over")
    out, err = capsys.readouterr()
    assert out == "so now\ndone\n"
    assert err.splitlines() == [
        *(line for line in SHOWN.splitlines() if line[:2] in ("th", "ar", "")),
        "tokentape: over",
    ]


def drawn(events: list[Event], *, markdown: bool = False, colours: bool = True) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        color_system="standard" if colours else None,
        width=60,
        highlight=False,
        markup=False,
    )
    with LiveOutput(console, lambda: None, markdown=markdown) as output:
        for event in events:
            TextEventPrinter(output).print_events([event])
            output.refresh()
    return out.getvalue()


@pytest.mark.parametrize("markdown", [False, True])
def test_reasoning_is_dimmed_on_a_terminal(markdown: bool) -> None:
    written = drawn([thought("let me *see*\nnow"), token("so now"), thought("hm")], markdown=markdown)
    assert "\x1b[2mthinking: let me *see*" in written
    assert "\x1b[2mthinking: hm" in written
    assert not re.search(r"\x1b\[2m[^\n]*so now", written)


def test_reasoning_is_marked_without_colours() -> None:
    written = drawn([thought("one\ntwo\n"), token("so")], colours=False)
    # The last row is drawn again and again, and printed once.
    printed = [row for row in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).split("\n") if row.strip()]
    assert "\x1b[2m" not in written
    assert [row for row in printed if "one" in row or "two" in row] == ["thinking: one", "thinking: two"]
    assert printed[-1].split("\r")[-1] == "so"
    assert "thinking: so" not in written


def test_tool_call_without_its_first_piece_is_named_by_its_id() -> None:
    """As in a tail that begins in its middle."""
    assert Asides().of(piece("x")) == (f"arguments of {CALL}", "x")
    assert Asides().of(token("x")) is None


def test_status_line_names_reasoning_and_tool_calls() -> None:
    status = StatusLine()
    words = []
    for event in [STARTED, thought("hm"), token("a"), piece("{", name="refund"), thought("hm"), STARTED]:
        status.add(event)
        words.append(status.text(1.0))
    assert words == [
        "0 tokens · 1.0 s",
        "thinks · 0 tokens · 1.0 s",
        "1 token · 1.0 s",
        "writes a call · 1 token · 1.0 s",
        "thinks · 1 token · 1.0 s",
        "0 tokens · 1.0 s",
    ]


def test_summary_shows_the_refusal() -> None:
    end = {"type": "generation.completed", "finish_reason": "refusal", "refusal": "I will not.\u202e", "usage": {}}
    assert summary(end) == "refusal · I will not.\\u202e"
