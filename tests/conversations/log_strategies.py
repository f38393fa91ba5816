"""Hypothesis strategies of whole logs: what writers may write, and other events that the fold ignores.

Each generation follows the contract: attempts, interruptions, calls that are proposed, decided, run and
finished, steering, progress, steps, a result, one end. The events of several generations are mixed at random,
with events of unknown types and generations among them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from eventstore import Event, NewEvent
from server import event_types
from server.message_parts import Content, FilePart, ImagePart, TextPart
from server.workflows import digest

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


PARTS = st.one_of(
    STORABLE_TEXT.map(TextPart),
    st.just(ImagePart("a" * 64, "image/png", 12_345)),
    st.builds(FilePart, st.just("b" * 64), st.just("text/plain"), st.integers(1, 9), st.none() | STORABLE_TEXT),
)
CONTENTS: st.SearchStrategy[Content] = STORABLE_TEXT | st.lists(PARTS, min_size=1, max_size=3).map(tuple)


@dataclass
class DrawnCall:
    """A call so far. `seen`: its proposed arguments."""

    name: str
    seen: dict[str, Any]
    asks: bool
    client: bool
    approvers: int = 1
    approved: tuple[str, ...] = ()
    status: str = "proposed"

    @property
    def may_start(self) -> bool:
        """Whether it may be run now."""
        return self.status in ("approved", "modified") or (self.status == "proposed" and not self.asks)


@dataclass
class DrawnGeneration:
    """One generation so far."""

    name: str
    status: str = "queued"
    attempt: int = 0
    calls: list[DrawnCall] = field(default_factory=list)


Step = Callable[[st.DrawFn, DrawnGeneration], list[NewEvent]]


def _start(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    drawn.status, drawn.attempt = "running", drawn.attempt + 1
    return [started(drawn.name, drawn.attempt)]


def _interrupt(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    drawn.status = "queued"
    reason = draw(st.sampled_from(["server_stopped", "worker_lost"]))
    return [event_types.generation_interrupted(drawn.name, drawn.attempt, reason)]


def _stream(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    deltas = draw(st.lists(STORABLE_TEXT, min_size=1, max_size=5))
    kinds = draw(st.lists(st.sampled_from("ttra"), min_size=len(deltas), max_size=len(deltas)))
    return [_said(drawn.name, kind, delta) for kind, delta in zip(kinds, deltas, strict=True)]


def _said(name: str, kind: str, delta: str) -> NewEvent:
    if kind == "t":
        return event_types.token(name, delta)
    return (
        event_types.reasoning(name, delta)
        if kind == "r"
        else event_types.tool_arguments(name, f"call_{name}_x", delta)
    )


def _end(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    ends = (completed, failed, cancelled) if drawn.status == "running" else (failed, cancelled)
    drawn.status = "ended"
    return [draw(st.sampled_from(ends))(drawn.name)]


def _propose(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    name = f"call_{drawn.name}_{len(drawn.calls)}"
    call = DrawnCall(
        name, draw(ARGUMENTS), draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([1, 1, 2, 3]))
    )
    drawn.calls.append(call)
    known = {"asks": call.asks, "arguments": call.seen, "client": call.client, "approvers": call.approvers}
    return [proposed(drawn.name, call.name, **known)]  # type: ignore[arg-type]


def _decide(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    call = draw(st.sampled_from([call for call in drawn.calls if call.asks and call.status == "proposed"]))
    decision = draw(st.sampled_from(DECISIONS))
    by = draw(st.sampled_from([one for one in ("Ada", "Bob", "Cem") if one not in call.approved]))
    if decision != "rejected" and len(call.approved) + 1 < call.approvers:
        return [_approve(draw, drawn, call, decision, by)]
    # Whoever modifies the arguments is the first to approve them: not the last of several.
    call.status = "approved" if decision == "modified" and call.approvers > 1 else decision
    arguments = draw(ARGUMENTS) if call.status == "modified" else None
    reason = draw(st.none() | STORABLE_TEXT)
    return [decided(drawn.name, call.name, call.status, seen=call.seen, arguments=arguments, reason=reason, by=by)]


def _approve(draw: st.DrawFn, drawn: DrawnGeneration, call: DrawnCall, decision: str, by: str) -> NewEvent:
    seen, wanted = call.seen, draw(ARGUMENTS) if decision == "modified" else call.seen
    call.approved = (*call.approved, by) if digest(wanted) == digest(seen) else (by,)
    call.seen = wanted
    return event_types.tool_approval(
        drawn.name,
        call.name,
        proposed_digest=digest(seen),
        arguments_digest=digest(wanted),
        remaining=call.approvers - len(call.approved),
        by=by,
        arguments=wanted if wanted != seen else None,
    )


def _run_tool(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    call = draw(st.sampled_from([call for call in drawn.calls if call.may_start]))
    call.status = "started"
    return [event_types.tool_started(drawn.name, call.name)]


def _finish(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    call = draw(st.sampled_from(_finishable(drawn)))
    call.status = "finished"
    fault = {"error": {"code": "tool_failed", "message": draw(STORABLE_TEXT)}}
    return [tool_ended(drawn.name, call.name, draw(st.just(fault) | JSON.map(lambda value: {"result": value})))]


def _finishable(drawn: DrawnGeneration) -> list[DrawnCall]:
    return [
        call for call in drawn.calls if call.status == "started" and (call.client or drawn.status == "running")
    ]


def _steer(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    return [event_types.steering_changed(drawn.name, draw(st.sampled_from(["a", "b"])), draw(JSON), "anonymous")]


def _report(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    shown = (
        event_types.progress(drawn.name, 3, 9, "pages", draw(st.sampled_from([None, "é"]))),
        event_types.step_finished(drawn.name, "step x 1", draw(JSON)),
        event_types.result(drawn.name, draw(JSON)),
    )
    return [draw(st.sampled_from(shown))]


def _apply_message(draw: st.DrawFn, drawn: DrawnGeneration) -> list[NewEvent]:
    return [event_types.message_applied(drawn.name, f"msg_{draw(st.integers(0, 9))}")]


def _possible_steps(drawn: DrawnGeneration) -> list[Step]:
    if drawn.status == "ended":
        return []
    steps: list[Step] = [_start, _interrupt, _steer]
    if drawn.status == "running":
        steps += [_stream, _stream, _stream, _propose, _propose, _report, _apply_message, _end]
    elif drawn.attempt == 0:
        steps += [_start, _end]
    if any(call.asks and call.status == "proposed" for call in drawn.calls):
        steps += [_decide, _decide]
    if drawn.status == "running" and any(call.may_start for call in drawn.calls):
        steps += [_run_tool, _run_tool]
    if _finishable(drawn):
        steps += [_finish, _finish]
    return steps


def _unrelated(draw: st.DrawFn, number: int) -> list[NewEvent]:
    """A message, or an event that leaves every known generation as it was."""
    if draw(st.booleans()):
        role = draw(st.sampled_from(["user", "assistant", "system", "tool"]))
        deliver = draw(st.none() | st.just("now"))
        into = draw(st.none() | st.sampled_from(GENERATIONS)) if deliver else None
        content, author = draw(CONTENTS), draw(st.none() | STORABLE_TEXT)
        return [event_types.message_posted(f"msg_{number}", role, content, author, "anonymous", deliver, into)]
    unrelated = (
        event_types.token("gen_Z", "x"),
        proposed("gen_Z", "call_Z"),
        event_types.steering_changed("gen_Z", "a", 1, "anonymous"),
        *(NewEvent(kind, "??", "gen_A") for kind in ("presence", "tool.thought", "Token", "")),
    )
    return [draw(st.sampled_from(unrelated))]


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A whole log from its first event."""
    metadata = draw(st.none() | st.dictionaries(STORABLE_TEXT, STORABLE_TEXT, max_size=2))
    tenant = draw(st.sampled_from(["default", "acme"]))
    news = [event_types.conversation_started(draw(st.none() | STORABLE_TEXT), metadata, tenant)]
    lives: list[DrawnGeneration] = []
    for _ in range(draw(st.sampled_from([0, 4, 12, 30]))):
        choices: list[DrawnGeneration | str] = [
            "unrelated",
            *(drawn for drawn in lives if drawn.status != "ended"),
        ] * 2
        if len(lives) < len(GENERATIONS):
            choices.append("ask")
        choice = draw(st.sampled_from(choices))
        if choice == "unrelated":
            news += _unrelated(draw, len(news))
        elif isinstance(choice, DrawnGeneration):
            news += draw(st.sampled_from(_possible_steps(choice)))(draw, choice)
        else:
            lives.append(DrawnGeneration(GENERATIONS[len(lives)]))
            news.append(requested(lives[-1].name))
    return rows(news)
