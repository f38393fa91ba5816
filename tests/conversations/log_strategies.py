"""Hypothesis strategies of logs: what the writers may write, and events between them that a fold ignores.

Each generation lives as the contract allows: attempts, interruptions, calls that are proposed, decided, run and
finished, steering, progress, steps, a result, one end. The lives of several generations are mixed at random, with
events of unknown types and of unknown generations among them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from eventstore import Event, NewEvent
from server import event_types

from .event_builders import (
    STORABLE_TEXT,
    cancelled,
    completed,
    decided,
    failed,
    proposed,
    requested,
    rows,
    started,
    tool_ended,
)

GENERATIONS = ("gen_A", "gen_B", "gen_C")
DECISIONS = ("approved", "rejected", "modified")
JSON: st.SearchStrategy[Any] = st.sampled_from([None, False, 3, "é", [], [1, None], {"a": {"b": 1}}])
ARGUMENTS: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {"order": 7}, {"order": 8, "why": "é"}])


@dataclass
class Call:
    """A call as it stands. `seen`: its proposed arguments."""

    name: str
    seen: dict[str, Any]
    asks: bool
    client: bool
    status: str = "proposed"

    @property
    def may_start(self) -> bool:
        """Whether it may be run now."""
        return self.status in ("approved", "modified") or (self.status == "proposed" and not self.asks)


@dataclass
class Life:
    """One generation as it stands."""

    name: str
    status: str = "queued"
    attempt: int = 0
    calls: list[Call] = field(default_factory=list)


Step = Callable[[st.DrawFn, Life], list[NewEvent]]


def _start(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    life.status, life.attempt = "running", life.attempt + 1
    return [started(life.name, life.attempt)]


def _interrupt(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    life.status = "queued"
    reason = draw(st.sampled_from(["server_stopped", "worker_lost"]))
    return [event_types.generation_interrupted(life.name, life.attempt, reason)]


def _stream(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    deltas = draw(st.lists(STORABLE_TEXT, min_size=1, max_size=5))
    kinds = draw(st.lists(st.sampled_from("ttra"), min_size=len(deltas), max_size=len(deltas)))
    return [_said(life.name, kind, delta) for kind, delta in zip(kinds, deltas, strict=True)]


def _said(name: str, kind: str, delta: str) -> NewEvent:
    if kind == "t":
        return event_types.token(name, delta)
    return (
        event_types.reasoning(name, delta)
        if kind == "r"
        else event_types.tool_arguments(name, f"call_{name}_x", delta)
    )


def _end(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    ends = (completed, failed, cancelled) if life.status == "running" else (failed, cancelled)
    life.status = "ended"
    return [draw(st.sampled_from(ends))(life.name)]


def _propose(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    call = Call(f"call_{life.name}_{len(life.calls)}", draw(ARGUMENTS), draw(st.booleans()), draw(st.booleans()))
    life.calls.append(call)
    return [proposed(life.name, call.name, asks=call.asks, arguments=call.seen, client=call.client)]


def _decide(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    call = draw(st.sampled_from([call for call in life.calls if call.asks and call.status == "proposed"]))
    call.status = draw(st.sampled_from(DECISIONS))
    arguments = draw(ARGUMENTS) if call.status == "modified" else None
    reason = draw(st.none() | STORABLE_TEXT)
    return [decided(life.name, call.name, call.status, seen=call.seen, arguments=arguments, reason=reason)]


def _run_tool(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    call = draw(st.sampled_from([call for call in life.calls if call.may_start]))
    call.status = "started"
    return [event_types.tool_started(life.name, call.name)]


def _finish(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    call = draw(st.sampled_from(_finishable(life)))
    call.status = "finished"
    fault = {"error": {"code": "tool_failed", "message": draw(STORABLE_TEXT)}}
    return [tool_ended(life.name, call.name, draw(st.just(fault) | JSON.map(lambda value: {"result": value})))]


def _finishable(life: Life) -> list[Call]:
    return [call for call in life.calls if call.status == "started" and (call.client or life.status == "running")]


def _steer(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    return [event_types.steering_changed(life.name, draw(st.sampled_from(["a", "b"])), draw(JSON), "anonymous")]


def _report(draw: st.DrawFn, life: Life) -> list[NewEvent]:
    shown = (
        event_types.progress(life.name, 3, 9, "pages", draw(st.sampled_from([None, "é"]))),
        event_types.step_finished(life.name, "step x 1", draw(JSON)),
        event_types.result(life.name, draw(JSON)),
    )
    return [draw(st.sampled_from(shown))]


def _possible_steps(life: Life) -> list[Step]:
    if life.status == "ended":
        return []
    steps: list[Step] = [_start, _interrupt, _steer]
    if life.status == "running":
        steps += [_stream, _stream, _stream, _propose, _propose, _report, _end]
    elif life.attempt == 0:
        steps += [_start, _end]
    if any(call.asks and call.status == "proposed" for call in life.calls):
        steps += [_decide, _decide]
    if life.status == "running" and any(call.may_start for call in life.calls):
        steps += [_run_tool, _run_tool]
    if _finishable(life):
        steps += [_finish, _finish]
    return steps


def _unrelated(draw: st.DrawFn, number: int) -> list[NewEvent]:
    """A message, or an event that leaves every known generation as it was."""
    if draw(st.booleans()):
        role = draw(st.sampled_from(["user", "assistant", "system", "tool"]))
        return [
            event_types.message_posted(
                f"msg_{number}", role, draw(STORABLE_TEXT), draw(st.none() | STORABLE_TEXT), "anonymous"
            )
        ]
    unrelated = (
        event_types.token("gen_Z", "x"),
        proposed("gen_Z", "call_Z"),
        event_types.steering_changed("gen_Z", "a", 1, "anonymous"),
        *(NewEvent(kind, "??", "gen_A") for kind in ("presence", "tool.thought", "Token", "")),
    )
    return [draw(st.sampled_from(unrelated))]


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A whole log, from its first event."""
    metadata = draw(st.none() | st.dictionaries(STORABLE_TEXT, STORABLE_TEXT, max_size=2))
    news = [event_types.conversation_started(draw(st.none() | STORABLE_TEXT), metadata)]
    lives: list[Life] = []
    for _ in range(draw(st.sampled_from([0, 4, 12, 30]))):
        choices: list[Life | str] = ["unrelated", *(life for life in lives if life.status != "ended")] * 2
        if len(lives) < len(GENERATIONS):
            choices.append("ask")
        choice = draw(st.sampled_from(choices))
        if choice == "unrelated":
            news += _unrelated(draw, len(news))
        elif isinstance(choice, Life):
            news += draw(st.sampled_from(_possible_steps(choice)))(draw, choice)
        else:
            lives.append(Life(GENERATIONS[len(lives)]))
            news.append(requested(lives[-1].name))
    return rows(news)
