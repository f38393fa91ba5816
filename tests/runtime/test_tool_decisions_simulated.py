"""A tool only ever runs with the arguments a person approved, whatever is proposed, decided, repeated or
killed, in any order.

Hypothesis makes the plans. Each plan runs in virtual time with all random choices seeded. The checks read the log
and the tools' own records, and nothing that the server says of itself.
"""

from collections import Counter

import msgspec
import trio
from hypothesis import Phase, given, note, seed, settings
from hypothesis import strategies as st
from trio._core import _run
from trio.testing import MockClock

from eventstore import Event
from server.workflows import digest
from tests.generations.run_owner import the_end

from .decision_plan import AppearDead, Cancel, Crash, Decide, Plan, RepeatCommand, Stop
from .decision_simulation import NON_IDEMPOTENT, DecisionSimulation, Execution
from .runtime_process import folded, of

SLOTS = st.integers(0, 1)
DECISIONS = st.sampled_from(["approved", "modified", "rejected", "modified", "approved"])
SEEN = st.sampled_from([*["right"] * 7, "wrong", "another's", "his own"])
WHICH = st.sampled_from([0, 0, 0, 1, 2, 5])
"""Of the calls, those that wait standing first."""
DECIDE = st.builds(
    Decide, SLOTS, WHICH, DECISIONS, SEEN, st.sampled_from([1, 2, 60]), st.sampled_from([0, 1, 1, 2])
)
CRASH = st.builds(Crash, SLOTS, st.sampled_from([1, 3, 10, 20, 30, 50, 100, 300]))
ACTS = (
    DECIDE
    | DECIDE
    | DECIDE
    | st.builds(RepeatCommand, SLOTS, st.integers(0, 9))
    | CRASH
    | CRASH
    | st.builds(AppearDead, SLOTS)
    | st.builds(Stop, SLOTS)
)
CALL = st.tuples(st.sampled_from(["refund", "refund", "mail", "ship", "book"]), st.sampled_from([5, 60]))
CALLS = st.lists(CALL, min_size=1, max_size=3)
PLANS = st.builds(
    Plan,
    st.integers(0, 10_000),
    st.sampled_from(["model", "model", "workflow"]),
    st.lists(CALLS, min_size=1, max_size=3),
    st.builds(
        list.__add__,
        st.lists(st.tuples(st.sampled_from([0.3, 0.0, 0.05, 1.0, 2.5]), ACTS), min_size=5, max_size=14),
        st.sampled_from([[], [], [], [(1.0, Cancel(0))]]),
    ),
)
PLAYED = 100


class LoggedCall:
    """One call as the log tells of it."""

    def __init__(self, own: list[Event], proposed: Event) -> None:
        self.proposed = msgspec.json.decode(proposed.data)
        about = [(event, msgspec.json.decode(event.data)) for event in own]
        about = [(event, fields) for event, fields in about if fields.get("call") == self.proposed["call"]]
        self.decided = [(event, fields) for event, fields in about if event.type == "tool.decided"]
        self.started = [event for event, _ in about if event.type == "tool.started"]
        self.finished = [fields for event, fields in about if event.type == "tool.finished"]

    @property
    def n(self) -> int:
        """By which a tool's arguments say whose they are: no decision changes it here."""
        return int(self.proposed["arguments"]["n"])

    def permitted(self) -> tuple[str, int]:
        """The digest of the only arguments that may be run, and where in the log they came to be so."""
        if not self.proposed["needs_approval"]:
            assert not self.decided
            return self.proposed["arguments_digest"], 0
        assert len(self.decided) == 1, "run, and not decided once"
        event, fields = self.decided[0]
        assert fields["decision"] in ("approved", "modified")
        assert fields["proposed_digest"] == self.proposed["arguments_digest"]
        assert fields["arguments_digest"] == digest(fields["arguments"])
        if fields["decision"] == "approved":
            assert fields["arguments_digest"] == self.proposed["arguments_digest"]
        return fields["arguments_digest"], event.position


def check_plan(simulation: DecisionSimulation) -> Counter[str]:
    """Checks all executions of a plan, and counts which cases it went through."""
    folded(simulation.log, simulation.conversation)  # every event was possible where it stands
    own = of(simulation.log, simulation.conversation, simulation.generation)
    calls = [LoggedCall(own, event) for event in own if event.type == "tool.proposed"]
    by_n = {call.n: call for call in calls}
    assert len(by_n) == len(calls), "a turn that was paid for was asked for again"
    for execution in simulation.executions:
        check_execution(simulation.plan, by_n[execution.arguments["n"]], execution)
    runs = Counter(execution.arguments["n"] for execution in simulation.executions)
    for call in calls:
        if simulation.plan.kind == "model" and call.proposed["name"] in NON_IDEMPOTENT:
            assert runs[call.n] <= 1
            assert len(call.started) <= 1
        if call.finished and "result" in call.finished[0]:
            assert digest(call.finished[0]["result"]) == call.permitted()[0]
            assert runs[call.n] >= 1
    for command, _, done in simulation.answers:
        told = msgspec.json.decode(simulation.log.streams[simulation.conversation].events[done.last - 1].data)
        assert (told["call"], told["decision"]) == (command.call, command.decision)
        assert told["by"] == command.by
        assert command.proposed_digest == told["proposed_digest"], "decided by somebody who saw something else"
    return cases_covered(simulation, own, calls)


def check_execution(plan: Plan, call: LoggedCall, execution: Execution) -> None:
    """One execution had permitted arguments, and came after all events that had to be durable before it."""
    permitted, since = call.permitted()
    assert digest(execution.arguments) == permitted
    assert since <= execution.head
    if plan.kind == "model":
        assert [event for event in call.started if since < event.position <= execution.head]


def cases_covered(simulation: DecisionSimulation, own: list[Event], calls: list[LoggedCall]) -> Counter[str]:
    """The cases that the plan went through."""
    found = Counter(simulation.refusals)
    found[the_end(own).type] += 1
    found["attempts"] += sum(event.type == "generation.started" for event in own) - 1
    found["executions"] += len(simulation.executions)
    found["repeated"] += sum(done.repeated for _, _, done in simulation.answers)
    for call in calls:
        for _, fields in call.decided:
            found["expired" if fields["by"] == "tokentape" else fields["decision"]] += 1
        for fields in call.finished:
            found[fields.get("error", {}).get("code", "result")] += 1
    return found


def test_tools_run_only_with_approved_arguments() -> None:
    seen: Counter[str] = Counter()

    # Not shrunk: that plays a plan hundreds of times. The notes tell it, and what happened, in full.
    @seed(4)  # the same plans each time, also when the names in this function change
    @settings(max_examples=PLAYED, deadline=None, database=None, phases=[Phase.generate])
    @given(plan=PLANS)
    def play(plan: Plan) -> None:
        simulation = DecisionSimulation(plan)
        _run._r.seed(plan.seed)  # trio's order among those that may run
        trio.run(simulation.play, clock=MockClock(autojump_threshold=0))
        for event in of(simulation.log, simulation.conversation, simulation.generation):
            note(f"{event.position} {event.at:%M:%S.%f} {event.type} {event.data}")
        note(f"{simulation.executions}")
        seen.update(check_plan(simulation))

    play()
    # Nothing of that was for show.
    for way in WAYS:
        assert seen[way] >= 3, f"{way} {sorted(seen.items())}"


WAYS = (
    *("approved", "modified", "rejected", "expired", "executions", "attempts", "repeated"),
    *("digest_mismatch", "already_decided", "no_decision_needed", "generation_ended", "key_reused"),
    *("result", "outcome_unknown", "generation.completed", "generation.cancelled"),
)
