"""Runs that reach their budget: they wait, go on when it is raised, end when they are cancelled, and are lost."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.config.price_table import Price, PriceTable
from server.conversations.budget import Budget
from server.conversations.conversation_state import Generation
from server.generations.run import run_budget
from server.generations.run_context import Run
from server.problem import Problem
from server.providers import Finish, Reasoning
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow, tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .run_commands import At, decide, ended, events, kinds, play, raise_budget, snapshot, started
from .runtime_process import app, cancel, process, refused

PRICES = PriceTable({"fake": Price(1_000_000, 2_000_000, 500_000)})
"""A token of input costs 1, one of output 2."""


@tool(approval="never", idempotent=True)
async def free(what: str) -> str:
    """Does it without asking."""
    return f"did {what}"


@tool
async def ask(what: str) -> str:
    """Asks, and does it."""
    return f"did {what}"


REGISTRY = app(free, ask)


def call(name: str, what: str) -> tuple[str, str]:
    return name, msgspec.json.encode({"what": what}).decode()


def words(count: int) -> FakeUpstream:
    """An answer of so many pieces, one at a time."""
    return FakeUpstream(*((f"{n} ",) for n in range(count)))


async def waiting(here: ConversationService, run: At) -> Generation:
    """The generation, once it waits for its budget."""
    with trio.fail_after(1_000):
        while (found := await snapshot(here, run)).waiting_for != "budget":
            assert not found.ended, found.error
            await trio.sleep(0.1)
    await trio.sleep(50)
    return found


def told(log: MemoryBackend, run: At, kind: str) -> list[Mapping[str, Any]]:
    return [msgspec.json.decode(event.data) for event in events(log, run, kind)]


async def test_answer_pauses_in_its_stream_at_the_budget(autojump_clock: MockClock) -> None:
    """Not one piece is read meanwhile; the same answer goes on, as often as it is raised."""
    log, model = MemoryBackend(), words(10)
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", budget=Budget(3))
        found = await waiting(here, run)
        assert (found.status, found.text) == ("waiting", "0 1 2 ")
        assert found.budget == Budget(3, None, "tokens", 3)
        assert await snapshot(here, run) == found
        assert here.supervisor.load == 0, "it takes no place of a run that works"
        await raise_budget(here, run, 5)
        assert (await waiting(here, run)).text == "0 1 2 3 4 "
        with pytest.raises(Problem) as caught:
            await raise_budget(here, run, 5)
        assert refused(caught) == (422, "invalid_budget")
        await raise_budget(here, run, 1_000)
        found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "".join(f"{n} " for n in range(10)))
    assert model.opened == 1
    assert told(log, run, "budget.reached") == [
        {"bound": "tokens", "limit": 3, "used": 3},
        {"bound": "tokens", "limit": 5, "used": 5},
    ]
    assert [fields["by"] for fields in told(log, run, "budget.raised")] == ["Ada", "Ada"]


async def test_reasoning_counts_towards_the_budget(autojump_clock: MockClock) -> None:
    model = FakeUpstream((Reasoning("a"),), (Reasoning("b"),), ("c",), ("d",))
    log = MemoryBackend()
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", budget=Budget(3))
        found = await waiting(here, run)
        assert (found.reasoning, found.text) == ("ab", "c")


async def test_unreached_budget_changes_nothing(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), words(3), prices=PRICES) as here:
        run = await play(here, model="fake", budget=Budget(4, 100.0))
        found = await ended(here, run)
    assert found.status == "completed"
    assert not [kind for kind in kinds(log, run) if kind.startswith("budget.")]


async def test_budget_raised_before_it_is_reached(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(("a",), 5.0, ("b",), ("c",), ("d",))) as here:
        run = await play(here, model="fake", budget=Budget(2))
        await started(here, run, text="a")
        await raise_budget(here, run, 100)
        assert (await ended(here, run)).text == "abcd"
    assert "budget.reached" not in kinds(log, run)


async def test_cancel_ends_a_paused_run(autojump_clock: MockClock) -> None:
    """With its text, and the connection is closed."""
    log, model = MemoryBackend(), words(10)
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", budget=Budget(3))
        await waiting(here, run)
        assert model.open_now == 1
        assert await cancel(here, *run)
        assert model.open_now == 0
        found = await snapshot(here, run)
        assert (found.status, found.text) == ("cancelled", "0 1 2 ")
        with pytest.raises(Problem) as caught:
            await raise_budget(here, run, 100)
        assert refused(caught) == (409, "generation_ended")


async def test_paused_answer_fails_when_nobody_raises_the_budget(autojump_clock: MockClock) -> None:
    """The provider is not held for ever; what it said stays."""
    log, model = MemoryBackend(), words(10)
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", budget=Budget(3))
        began = trio.current_time()
        found = await ended(here, run)
    assert run_budget.MAX_HELD_SECONDS <= trio.current_time() - began < run_budget.MAX_HELD_SECONDS + 10
    assert (found.status, found.text, found.retryable) == ("failed", "0 1 2 ", False)
    assert found.error is not None
    assert found.error["code"] == "budget_not_raised"
    assert model.open_now == 0


def agent(rounds: int = 3) -> FakeAgent:
    """Uses 3 tokens a round, as its provider counts them."""
    return FakeAgent(*(Say([["so "]], [call("free", str(n))]) for n in range(rounds)), Say([["done"]]))


async def test_agent_pauses_between_rounds(autojump_clock: MockClock) -> None:
    """With no connection, for hours; the provider's own count is what counts."""
    log, model = MemoryBackend(), agent()
    async with process(log.process(), model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=("free",), budget=Budget(4))
        found = await waiting(here, run)
        assert (found.text, found.budget) == ("so so ", Budget(4, None, "tokens", 6))
        assert [one.status for one in found.tool_calls] == ["finished", "finished"], "what was decided on is done"
        assert model.open_now == 0
        await trio.sleep(3_600)
        assert model.opened == 2
        await raise_budget(here, run, 100)
        found = await ended(here, run)
    assert (found.status, found.text, found.usage) == (
        "completed",
        "so so so done",
        {"input_tokens": 4, "output_tokens": 8},
    )
    assert told(log, run, "budget.reached") == [{"bound": "tokens", "limit": 4, "used": 6}]


async def test_approval_comes_before_the_budget(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    model = FakeAgent(Say([["so "]], [call("ask", "a")]), Say([["done"]]))
    async with process(log.process(), model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=("ask",), budget=Budget(1))
        found = await started(here, run, text="so ", waiting=1)
        assert found.waiting_for == "approval"
        await decide(here, run, "approved")
        found = await waiting(here, run)
        assert found.tool_calls[0].status == "finished"
        await raise_budget(here, run, 10)
        assert (await ended(here, run)).status == "completed"


@pytest.mark.parametrize("raised", ["by nobody's server", "by the next one"])
async def test_paused_run_stays_paused_after_takeover(raised: str, autojump_clock: MockClock) -> None:
    """What earlier attempts used counts; it says so once, and goes on where it was."""
    log, model = MemoryBackend(), agent()
    async with process(log.process()) as other:
        async with process(log.process(), model, registry=REGISTRY) as lost:
            run = await play(lost, model="fake", tools=("free",), budget=Budget(4), on_crash="restart")
            await waiting(lost, run)
        if raised == "by nobody's server":
            await raise_budget(other, run, 100)
        async with process(log.process(), model, registry=REGISTRY) as here:
            if raised == "by the next one":
                with trio.fail_after(1_000):
                    while (await snapshot(here, run)).attempt < 2:
                        await trio.sleep(0.1)
                found = await waiting(here, run)
                assert found.budget == Budget(4, None, "tokens", 6)
                await raise_budget(here, run, 100)
            found = await ended(here, run)
    assert (found.status, found.text, found.attempt) == ("completed", "so so so done", 2)
    assert kinds(log, run).count("budget.reached") == 1
    assert model.opened == 4, "no round was paid for twice"


async def test_paused_answer_restarts_when_its_server_is_lost(autojump_clock: MockClock) -> None:
    """Only when it is raised; the pieces of the lost attempt were used."""
    log, model = MemoryBackend(), words(6)
    async with process(log.process(), model) as lost:
        run = await play(lost, model="fake", budget=Budget(3), on_crash="restart")
        await waiting(lost, run)
    async with process(log.process(), model) as here:
        with trio.fail_after(1_000):
            while (await snapshot(here, run)).attempt < 2:
                await trio.sleep(0.1)
        found = await waiting(here, run)
        assert (found.text, model.opened) == ("", 1)
        await raise_budget(here, run, 5)
        found = await waiting(here, run)
        assert (found.text, found.budget) == ("0 1 ", Budget(5, None, "tokens", 5))
        await raise_budget(here, run, 50)
        assert (await ended(here, run)).text == "".join(f"{n} " for n in range(6))


@pytest.mark.parametrize(
    ("budget", "reached"),
    [(Budget(8), ("tokens", 8)), (Budget(cost=15.0), ("cost", 15.0))],
    ids=["tokens", "cost"],
)
async def test_usage_of_a_lost_attempt_counts(
    budget: Budget, reached: tuple[str, float], autojump_clock: MockClock
) -> None:
    """Five pieces were lost with their server; the provider's count of the next round does not replace them."""
    log = MemoryBackend()
    cut, model = FakeAgent(Say([["so "]] * 5 + [FOREVER])), agent(1)
    async with process(log.process(), cut, registry=REGISTRY, prices=PRICES) as lost:
        run = await play(lost, model="fake", tools=("free",), budget=budget, on_crash="restart")
        await started(lost, run, text="so " * 5)
    async with process(log.process(), model, registry=REGISTRY, prices=PRICES) as here:
        found = await waiting(here, run)
        assert (found.attempt, model.opened, found.text) == (2, 1, "so ")
        assert found.budget is not None
        assert (found.budget.reached, found.budget.used) == reached
        await raise_budget(here, run, 100 if budget.tokens else None, 100.0 if budget.cost else None)
        assert (await ended(here, run)).status == "completed"


async def test_workflow_pauses_before_asking_a_model(autojump_clock: MockClock) -> None:
    """All its models count, also side by side; its own words do not."""

    async def work(run: Run) -> str:
        await run.token("own words, " * 20)
        for n in range(20):
            await run.token(str(n))
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(run.generate, "fake", "hi")
        said = await run.generate("fake", "and?")
        return said.text

    log, model = MemoryBackend(), FakeUpstream(("a",))
    async with process(log.process(), model, registry=app(Workflow("w", work)), prices=PRICES) as here:
        run = await play(here, budget=Budget(6))
        found = await waiting(here, run)
        assert (found.budget, model.opened) == (Budget(6, None, "tokens", 6), 2)
        await raise_budget(here, run, 7)
        found = await ended(here, run)
    assert (found.status, found.result) == ("completed", "a")
    assert found.usage == {"input_tokens": 3, "output_tokens": 6, "cost": 15.0}


@pytest.mark.parametrize("tools", [(), ("free",)])
async def test_cost_budget_pauses_the_run(tools: tuple[str, ...], autojump_clock: MockClock) -> None:
    """Pieces are counted as output while the provider has not counted yet."""
    log = MemoryBackend()
    model = agent(2) if tools else words(5)
    async with process(log.process(), model, registry=REGISTRY, prices=PRICES) as here:
        run = await play(here, model="fake", tools=tools, budget=Budget(cost=5.0))
        found = await waiting(here, run)
        assert found.budget == (Budget(None, 5.0, "cost", 5.0) if tools else Budget(None, 5.0, "cost", 6.0))
        await raise_budget(here, run, cost=1_000.0)
        found = await ended(here, run)
    assert found.usage is not None
    assert found.usage["cost"] == (15.0 if tools else 5.0)


@pytest.mark.parametrize(
    ("finish", "prices", "usage"),
    [
        (
            Finish("stop", {"input_tokens": 3, "output_tokens": 2}),
            PRICES,
            {"input_tokens": 3, "output_tokens": 2, "cost": 7.0},
        ),
        (
            Finish("stop", {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 2}),
            PRICES,
            {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 2, "cost": 6.0},
        ),
        (Finish("stop", {"input_tokens": 3}), PriceTable(), {"input_tokens": 3}),
        (Finish("stop", None), PRICES, {}),
    ],
)
async def test_usage_has_the_cost_where_it_is_known(
    finish: Finish, prices: PriceTable, usage: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with process(MemoryBackend().process(), FakeUpstream(("a",), finish=finish), prices=prices) as here:
        run = await play(here, model="fake")
        assert (await ended(here, run)).usage == usage


async def test_cost_budget_is_refused_without_a_price(autojump_clock: MockClock) -> None:
    """Of a model it is refused at once; a workflow finds out when it asks."""

    async def work(run: Run) -> None:
        await run.generate("fake", "hi")

    model = FakeUpstream(("a",))
    async with process(MemoryBackend().process(), model, registry=app(Workflow("w", work))) as here:
        with pytest.raises(Problem) as caught:
            await play(here, model="fake", budget=Budget(cost=1.0))
        assert refused(caught) == (422, "unknown_price")
        assert caught.value.extra == {"field": "budget.cost"}
        run = await play(here, budget=Budget(cost=1.0))
        found = await ended(here, run)
        assert found.error is not None
        assert found.error["code"] == "unknown_price"
    assert model.opened == 0
