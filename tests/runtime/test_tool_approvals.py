"""Calls that several people have to approve: at the same moment, too late, over crashes; and such questions."""

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from trio.testing import MockClock

from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.problem import Problem
from server.workflows import Workflow, tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.unreliable_logs import Jittery, Wrapped

from .run_commands import calls, decide, ended, events, kinds, play, snapshot, started
from .runtime_process import app, key, process, refused

T = TypeVar("T")
RAN: list[str] = []
PEOPLE = ("Ada", "Bob", "Cem", "Dan", "Eve")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@tool(approvers=2, expires=100.0)
async def pay(what: str) -> str:
    """Two people have to agree."""
    RAN.append(what)
    return f"paid {what}"


@tool(approvers=3, another_person=True, expires=100.0)
async def wire(what: str) -> str:
    """Three others have to agree."""
    RAN.append(what)
    return f"wired {what}"


REGISTRY = app(pay, wire)
SHIP = {"name": "ship", "description": "Sends a parcel.", "approvers": 2}


def call(name: str, **arguments: str) -> tuple[str, str]:
    return name, msgspec.json.encode(arguments).decode()


def agent(name: str = "pay", **arguments: str) -> FakeAgent:
    return FakeAgent(Say([["so "]], [call(name, **(arguments or {"what": "a"}))]), Say([["done"]]))


async def test_tool_runs_after_two_approvals(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), agent(), registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=("pay",))
        await started(here, run, text="so ", waiting=1)
        (proposal,) = events(log, run, "tool.proposed")
        assert msgspec.json.decode(proposal.data)["approvers"] == 2
        await decide(here, run, "approved", by="Ada")
        found = await started(here, run, text="so ", waiting=1)
        assert (found.status, found.tool_calls[0].approvals) == ("waiting", ("Ada",))
        with pytest.raises(Problem) as caught:
            await decide(here, run, "approved", by="Ada")
        assert refused(caught) == (409, "already_approved")
        assert RAN == []
        await decide(here, run, "approved", by="Bob")
        found = await ended(here, run)
    assert RAN == ["a"]
    assert found.tool_calls[0].approvals == ("Ada", "Bob")
    assert [kind for kind in kinds(log, run) if kind.startswith("tool.")][-4:] == [
        "tool.approval",
        "tool.decided",
        "tool.started",
        "tool.finished",
    ]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(("name", "approvers"), [("pay", 2), ("wire", 3)])
async def test_simultaneous_approvals(name: str, approvers: int, seed: int, autojump_clock: MockClock) -> None:
    """At two servers, each twice: no approval is lost, and nobody counts twice."""

    chance = random.Random(seed)
    log = MemoryBackend()
    model = agent(name)
    async with (
        process(Jittery(log.process(), chance, 0.0), model, registry=REGISTRY) as here,
        process(Jittery(log.process(), chance, 0.0), registry=REGISTRY) as there,
    ):
        run = await play(here, model="fake", tools=(name,))
        await started(here, run, text="so ", waiting=1)
        told: list[str] = []

        async def approve(by: str, at: Any) -> None:
            await trio.sleep(chance.choice([0.0, 0.0, 0.01]))
            try:
                await decide(at, run, "approved", by=by)
            except Problem as problem:
                told.append(problem.code)
            except ValueError:  # it was decided before the person looked
                told.append("nothing waits")

        async with trio.open_nursery() as nursery:
            for by in PEOPLE[:approvers]:
                for at in (here, there):
                    nursery.start_soon(approve, by, at)
        found = await ended(here, run)
    assert found.status == "completed", told
    assert RAN == ["a"]
    assert sorted(found.tool_calls[0].approvals) == sorted(PEOPLE[:approvers])
    assert kinds(log, run).count("tool.approval") == approvers - 1
    assert kinds(log, run).count("tool.decided") == 1
    assert len(told) == approvers, "each person's second answer was refused, and no other"


@pytest.mark.parametrize("seed", range(25))
async def test_simultaneous_rejection_or_modification(seed: int, autojump_clock: MockClock) -> None:
    """Whatever comes first: what runs was approved by two people who saw it, or nothing runs."""

    chance = random.Random(seed)
    log = MemoryBackend()
    async with (
        process(Jittery(log.process(), chance, 0.0), agent(), registry=REGISTRY) as here,
        process(Jittery(log.process(), chance, 0.0), registry=REGISTRY) as there,
    ):
        run = await play(here, model="fake", tools=("pay",))
        await started(here, run, text="so ", waiting=1)

        async def answer(by: str, at: Any) -> None:
            for _ in range(3):
                decision = chance.choice(["approved", "approved", "approved", "modified", "rejected"])
                arguments = {"what": chance.choice("ab")} if decision == "modified" else None
                await trio.sleep(chance.choice([0.0, 0.0, 0.01]))
                try:
                    await decide(at, run, decision, arguments, by=by)
                except (Problem, ValueError):
                    continue

        async with trio.open_nursery() as nursery:
            for number, by in enumerate(PEOPLE):
                nursery.start_soon(answer, by, (here, there)[number % 2])
        await ended(here, run)
    (one,) = calls(log, run)
    told = [
        msgspec.json.decode(event.data)
        for kind in ("tool.approval", "tool.decided")
        for event in events(log, run, kind)
    ]
    approved = {fields["by"] for fields in told if fields["arguments_digest"] == one.arguments_digest}
    assert kinds(log, run).count("tool.decided") == 1
    if one.decision == "rejected":
        assert RAN == []
    else:
        assert [one.arguments["what"]] == RAN
        assert len(approved) >= 2


async def test_repeated_decision_acts_once(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), agent(), registry=REGISTRY) as here, process(log.process()) as there:
        run = await play(here, model="fake", tools=("pay",))
        await started(here, run, text="so ", waiting=1)
        mine = key("first", b"approve")
        positions = {(await decide(at, run, "approved", by="Ada", key=mine)).first for at in (here, there, here)}
        assert len(positions) == 1
        await decide(there, run, "approved", by="Bob", key=key("second", b"approve"))
        again = await decide(here, run, "approved", by="Ada", key=mine, call=calls(log, run)[0].call)
        assert again.first in positions
        await ended(here, run)
    assert kinds(log, run).count("tool.approval") == 1


async def test_call_expires_without_second_approval(autojump_clock: MockClock) -> None:
    """When the time is over one approval is not enough; the server says so, in whatever order it comes."""
    log = MemoryBackend()
    async with process(log.process(), agent(), registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=("pay",))
        await started(here, run, text="so ", waiting=1)
        await trio.sleep(99)
        await decide(here, run, "approved", by="Ada")
        found = await ended(here, run)
    (one,) = found.tool_calls
    assert (one.status, one.reason, one.by, one.approvals) == ("rejected", "expired", "tokentape", ("Ada",))
    assert RAN == []


class Held(Wrapped):
    """A log on which appends wait while they are `held`."""

    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.go = trio.Event()
        self.go.set()

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Appends alone: what is read meanwhile is as it is."""
        if name == "append":
            await self.go.wait()
        return await call()


@pytest.mark.parametrize("late", ["the person", "the server"])
async def test_approval_just_before_expiry(late: str, autojump_clock: MockClock) -> None:
    """Decided on before the time is over, appended after it: who comes second finds what the first one said."""
    log = MemoryBackend()
    ours, theirs = Held(log.process()), Held(log.process())
    model = FakeAgent(Say([["so "]], [call("pay", what="a")]), Say([20.0, ["done"]]))
    async with process(ours, model, registry=REGISTRY) as here, process(theirs) as there:
        run = await play(here, model="fake", tools=("pay",))
        await started(here, run, text="so ", waiting=1)
        held = theirs if late == "the person" else ours
        (one,) = calls(log, run)
        assert one.expires_at is not None
        await trio.sleep((one.expires_at - await here.store.clock()).total_seconds() - 0.5)
        held.go = trio.Event()
        told: list[str] = []

        async def approve() -> None:
            try:
                await decide(there, run, "approved", by="Ada")
            except Problem as problem:
                told.append(problem.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(approve)
            await trio.sleep(1)  # the time is over, and one of the two appends waits
            held.go.set()
        found = await ended(here, run)
    (one,) = found.tool_calls
    assert RAN == []
    assert (one.status, one.reason) == ("rejected", "expired")
    assert one.approvals == (() if late == "the person" else ("Ada",))
    assert told == (["already_decided"] if late == "the person" else [])


async def test_approvals_survive_takeover(autojump_clock: MockClock) -> None:
    """Given while one server runs it, and another one after it is lost; a client runs the tool."""
    log = MemoryBackend()
    model = FakeAgent(Say([["so "]], [call("ship", to="x")]), Say([["done"]]))
    async with process(log.process()) as other:
        async with process(log.process(), model, registry=REGISTRY) as lost:
            run = await play(lost, model="fake", tools=(SHIP,), on_crash="restart")
            await started(lost, run, text="so ", waiting=1)
            await decide(lost, run, "approved", by="Ada")
        await decide(other, run, "modified", {"to": "y"}, by="Bob")
        async with process(log.process(), model, registry=REGISTRY) as here:
            await started(here, run, text="so ", waiting=1, attempt=2)
            await decide(here, run, "approved", by="Ada")
            with trio.fail_after(100):
                while (await snapshot(here, run)).tool_calls[0].status != "started":
                    await trio.sleep(0.1)
    (one,) = calls(log, run)
    assert (one.decision, one.arguments, one.approvals) == ("modified", {"to": "y"}, ("Bob", "Ada"))


async def test_rejected_modification_counts_as_seen(autojump_clock: MockClock) -> None:
    """What the model proposed first is not put before people again either."""
    log = MemoryBackend()
    model = FakeAgent(
        Say([["so "]], [call("pay", what="a")]), Say([["so "]], [call("pay", what="a")]), Say([["done"]])
    )
    async with process(log.process(), model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=("pay",))
        await started(here, run, text="so ", waiting=1)
        await decide(here, run, "modified", {"what": "b"}, by="Ada")
        await decide(here, run, "rejected", by="Bob")
        found = await ended(here, run)
    assert [one.error and one.error["code"] for one in found.tool_calls] == [None, "rejected_before"]


async def test_run_approve_with_several_approvers(autojump_clock: MockClock) -> None:
    """An answer under another rule does not count for it."""
    told: list[tuple[str, Mapping[str, Any]]] = []

    async def work(run: Run) -> None:
        for approvers in (1, 2, 2):
            decision = await run.approve("send", {"n": 1}, approvers=approvers, another_person=approvers == 2)
            told.append((decision.by, decision.arguments))

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await started(here, run, waiting=1)
        await decide(here, run, "approved")
        for _ in range(2):
            await started(here, run, waiting=1)
            with pytest.raises(Problem) as caught:
                await decide(here, run, "approved")
            assert refused(caught) == (403, "another_person_required")
            await decide(here, run, "modified", {"n": 2}, by="Ada")
            await decide(here, run, "approved", by="Bob")
        await ended(here, run)
    assert told == [("anonymous", {"n": 1}), ("Bob", {"n": 2}), ("Bob", {"n": 2})]


@pytest.mark.parametrize("rule", [{"approvers": 0}, {"approvers": 6}, {"approvers": True}, {"another_person": 1}])
async def test_invalid_approval_rule_is_refused(rule: dict[str, Any], autojump_clock: MockClock) -> None:
    async def work(run: Run) -> str:
        try:
            await run.approve("send", **rule)
        except ValueError as error:
            return str(error)
        return "asked"

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        found = await ended(here, run)
    assert found.result.startswith(("approvers has to be", "another_person has to be"))
    assert "tool.proposed" not in kinds(log, run)
