"""A model that may call tools: asked, its calls carried out, asked again with what they came to, until it spoke.

Each turn's end is in the log together with the calls it proposes, in one append: an attempt that follows takes the
turns that were paid for from there, says their text again, and goes on with the calls as they stand. No connection
is held between turns: a call may wait for a person for hours.

Calls of an answer that was cut (`length`, `content_filter`, a refusal …) never run: each is finished at once with
`answer_truncated`, and the run ends with the reason that the provider gave. Asked again, the model would meet the
same limit, and the answer be paid for again. Where the provider said that the answer ended well, but one of its
calls is not whole, the others run, and the model is told of that one in the next turn.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec
import trio

from eventstore import NewEvent
from server import events
from server.generation.answering import Kept, answer
from server.generation.desk import Desk
from server.generation.failing import RunFailed
from server.generation.figures import Figures
from server.generation.pace import Pace
from server.generation.toolwork import REJECTED_BEFORE, Inside, Outcome, carry_out, propose
from server.upstream import Finish, Message, Prompt, ToolCall, Upstream
from server.workflows import AnyTool

MOST_TURNS = 50
"""Of one answer: a model that goes round in circles is ended."""
MOST_CALLS = 64
"""In one turn."""
MOST_REPEATS = 3
"""Times that a model may propose a call again which a person rejected."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model said, all turns together. `usage` is summed; `tool_calls` are the ids of the calls it made.

    `refusal`: the words with which it refused to answer, if it did.
    """

    text: str
    finish_reason: str
    usage: Mapping[str, int]
    tool_calls: tuple[str, ...] = ()
    refusal: str = ""


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
    """What is in the log of one: what was said and thought, how it ended, and the ids of the calls it proposed."""

    text: str
    reason: str
    usage: dict[str, int] | None = None
    calls: list[str] = field(default_factory=list)
    reasoning: str = ""
    refusal: str = ""


@dataclass(slots=True)
class _Carried:
    """What the upstream wants back of a turn: with the answer, and with each call by its id. For no client."""

    answer: Any = None
    calls: dict[str, Any] = field(default_factory=dict)


async def generate(asking: Asking, prompt: Prompt) -> Generated:
    """Asks the model, again and again, until it calls no tool any more.

    Raises `UpstreamError`, `RunFailed` (`too_many_turns`), `Fenced`, `StoreUnavailable`.
    """
    text: list[str] = []
    usage: dict[str, int] = {}
    made: list[str] = []
    for number in range(1, MOST_TURNS + 1):
        turn, carried = await _take(asking, f"{asking.step}/{number}", prompt)
        text.append(turn.text)
        for name, count in (turn.usage or {}).items():
            usage[name] = usage.get(name, 0) + count
        made += turn.calls
        if not turn.calls or not Finish(turn.reason, None).ended_well:
            return Generated("".join(text), turn.reason, usage, tuple(made), turn.refusal)
        _check_repeats(asking.desk)
        outcomes = await _carry_out(asking, turn.calls)
        prompt = replace(prompt, messages=(*prompt.messages, *_told(asking.desk, turn, carried, outcomes)))
    raise RunFailed("too_many_turns", f"The model called tools in {MOST_TURNS} turns, which is the most.")


async def _take(asking: Asking, step: str, prompt: Prompt) -> tuple[_Turn, _Carried]:
    desk = asking.desk
    if step in desk.steps:
        turn = msgspec.convert(desk.steps[step], _Turn)
        asking.figures.paid(turn.usage)
        again = _said_again(desk.generation, turn)
        if again:
            await desk.write(again)
        return turn, msgspec.convert(desk.carried.get(step, {}), _Carried)
    kept = Kept()
    with asking.figures.at_work():
        finish = await answer(
            desk.write, desk.generation, asking.upstream, prompt, asking.figures, asking.pace, kept
        )
    wanted = finish.tool_calls
    if len(wanted) > MOST_CALLS:
        raise RunFailed(
            "too_many_calls", f"The model wants {len(wanted)} calls at once; the most is {MOST_CALLS}."
        )
    usage = dict(finish.usage) if finish.usage is not None else None
    turn = _Turn(
        "".join(kept.text),
        finish.reason,
        usage,
        reasoning="".join(kept.reasoning),
        refusal=finish.refusal,
    )
    carried = _Carried(finish.carry)
    proposed: list[NewEvent] = []
    if wanted:
        now = await desk.clock()
        cut = None if finish.ended_well else finish.reason
        for place, one in enumerate(wanted):
            call, new = propose(desk, step, one, asking.tools, now, call=kept.calls.get(place), cut=cut)
            turn.calls.append(call)
            proposed += new
            if one.carry is not None:
                carried.calls[call] = one.carry
    carry = asdict(carried) if carried != _Carried() else None
    await desk.write([events.step_finished(desk.generation, step, asdict(turn), carry), *proposed])
    return turn, carried


def _said_again(generation: str, turn: _Turn) -> list[NewEvent]:
    """What an attempt before this one has paid for, whose words count no more."""
    again = [events.reasoning(generation, turn.reasoning)] if turn.reasoning else []
    return [*again, events.token(generation, turn.text)] if turn.text else again


def _check_repeats(desk: Desk) -> None:
    """Raises `RunFailed` where the model only goes on to ask for what a person has rejected."""
    repeated = sum(1 for call in desk.calls if call.error is not None and call.error["code"] == REJECTED_BEFORE)
    if repeated > MOST_REPEATS:
        raise RunFailed(
            "rejected_call_repeated",
            f"The model proposed calls again that a person had rejected, {repeated} times; the most is "
            f"{MOST_REPEATS}.",
        )


async def _carry_out(asking: Asking, calls: list[str]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}

    async def one(call: str) -> None:
        outcomes[call] = await carry_out(asking.desk, call, asking.tools, asking.inside)

    async with trio.open_nursery() as nursery:  # side by side: a person may decide on the last one first
        for call in calls:
            nursery.start_soon(one, call)
    return outcomes


def _told(desk: Desk, turn: _Turn, carried: _Carried, outcomes: Mapping[str, Outcome]) -> list[Message]:
    """The turn and what its calls came to, for the model. With the arguments that ran, should they be others."""
    made = [desk.call(call) for call in turn.calls]
    calls = tuple(ToolCall(one.call, one.name, _text(one.arguments), carried.calls.get(one.call)) for one in made)
    results = [Message("tool", _text(_outcome(outcomes[one.call])), call=one.call) for one in made]
    return [Message("assistant", turn.text, calls=calls, carry=carried.answer), *results]


def _outcome(outcome: Outcome) -> Any:
    return outcome.get("result", outcome)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
