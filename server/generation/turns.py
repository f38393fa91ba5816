"""A model that may call tools: asked, its calls carried out, asked again with what they came to, until it spoke.

Each turn's end is in the log together with the calls it proposes, in one append: an attempt that follows takes the
turns that were paid for from there, says their text again, and goes on with the calls as they stand. No connection
is held between turns: a call may wait for a person for hours.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec
import trio

from eventstore import NewEvent
from server import events
from server.generation.answering import answer
from server.generation.desk import Desk
from server.generation.failing import RunFailed
from server.generation.figures import Figures
from server.generation.pace import Pace
from server.generation.toolwork import Inside, Outcome, carry_out, propose
from server.upstream import Message, Prompt, ToolCall, Upstream
from server.workflows import AnyTool

MOST_TURNS = 50
"""Of one answer: a model that goes round in circles is ended."""
MOST_CALLS = 64
"""In one turn."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model said, all turns together. `usage` is summed; `tool_calls` are the ids of the calls it made."""

    text: str
    finish_reason: str
    usage: Mapping[str, int]
    tool_calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asking:
    """What the turns of one answer have in common."""

    desk: Desk
    step: str
    upstream: Upstream
    tools: Mapping[str, AnyTool]
    inside: Inside
    figures: Figures
    pace: Pace


@dataclass(slots=True)
class _Turn:
    """What is in the log of one: its text, how it ended, and the ids of the calls it proposed."""

    text: str
    reason: str
    usage: dict[str, int] | None = None
    calls: list[str] = field(default_factory=list)


async def generate(asking: Asking, prompt: Prompt) -> Generated:
    """Asks the model, again and again, until it calls no tool any more.

    Raises `UpstreamError`, `RunFailed` (`too_many_turns`), `Fenced`, `StoreUnavailable`.
    """
    text: list[str] = []
    usage: dict[str, int] = {}
    made: list[str] = []
    for number in range(1, MOST_TURNS + 1):
        turn = await _take(asking, f"{asking.step}/{number}", prompt)
        text.append(turn.text)
        for name, count in (turn.usage or {}).items():
            usage[name] = usage.get(name, 0) + count
        if not turn.calls:
            return Generated("".join(text), turn.reason, usage, tuple(made))
        made += turn.calls
        outcomes = await _carry_out(asking, turn.calls)
        prompt = replace(prompt, messages=(*prompt.messages, *_told(asking.desk, turn, outcomes)))
    raise RunFailed("too_many_turns", f"The model called tools in {MOST_TURNS} turns, which is the most.")


async def _take(asking: Asking, step: str, prompt: Prompt) -> _Turn:
    desk = asking.desk
    if step in desk.steps:
        turn = msgspec.convert(desk.steps[step], _Turn)
        asking.figures.paid(turn.usage)
        if turn.text:  # paid for by an attempt before this one, whose words count no more
            await desk.write([events.token(desk.generation, turn.text)])
        return turn
    chunks: list[str] = []
    finish = await answer(
        desk.write, desk.generation, asking.upstream, prompt, asking.figures, asking.pace, chunks
    )
    wanted = finish.tool_calls
    if len(wanted) > MOST_CALLS:
        raise RunFailed(
            "too_many_calls", f"The model wants {len(wanted)} calls at once; the most is {MOST_CALLS}."
        )
    usage = dict(finish.usage) if finish.usage is not None else None
    turn = _Turn("".join(chunks), finish.reason, usage)
    proposed: list[NewEvent] = []
    if wanted:
        now = await desk.clock()
        for one in wanted:
            call, new = propose(desk, step, one, asking.tools, now)
            turn.calls.append(call)
            proposed += new
    await desk.write([events.step_finished(desk.generation, step, asdict(turn)), *proposed])
    return turn


async def _carry_out(asking: Asking, calls: list[str]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}

    async def one(call: str) -> None:
        outcomes[call] = await carry_out(asking.desk, call, asking.tools, asking.inside)

    async with trio.open_nursery() as nursery:  # side by side: a person may decide on the last one first
        for call in calls:
            nursery.start_soon(one, call)
    return outcomes


def _told(desk: Desk, turn: _Turn, outcomes: Mapping[str, Outcome]) -> list[Message]:
    """The turn and what its calls came to, for the model. With the arguments that ran, should they be others."""
    made = [desk.call(call) for call in turn.calls]
    calls = tuple(ToolCall(one.call, one.name, _text(one.arguments)) for one in made)
    results = [Message("tool", _text(_outcome(outcomes[one.call])), call=one.call) for one in made]
    return [Message("assistant", turn.text, calls=calls), *results]


def _outcome(outcome: Outcome) -> Any:
    return outcome.get("result", outcome)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
