"""What runs are said to have used, for the limits of a day: also those that end before their provider counts."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.config.price_table import Price, PriceTable
from server.generations.executors import Attempt
from server.generations.run_context import Run
from server.providers import ArgumentsDelta, Reasoning, UpstreamError
from server.workflows import Workflow, tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .run_commands import play, snapshot
from .runtime_process import app, cancel, process

PRICES = PriceTable({"fake": Price(1_000_000, 2_000_000, 500_000)})
"""A token of input costs 1, one of output 2."""


class Counted:
    """Limits that let everybody start, and add up what they are told."""

    def __init__(self) -> None:
        self.tokens, self.cost = 0.0, 0.0

    def watch_runs(self, runs: Callable[[], Iterable[Attempt]]) -> None:
        """As `RunLimits.watch_runs`."""

    @asynccontextmanager
    async def starting(
        self, tenant: str, subject: str, generation: str, conversation: str | None
    ) -> AsyncIterator[None]:
        """As `RunLimits.starting`."""
        yield

    async def check_day(self, tenant: str, subject: str) -> None:
        """As `RunLimits.check_day`."""

    def add_use(self, tenant: str, subject: str, tokens: float, cost: float) -> None:
        """As `RunLimits.add_use`."""
        self.tokens += tokens
        self.cost += cost


@tool(approval="never", idempotent=True)
async def free(what: str) -> str:
    """Does it without asking."""
    return f"did {what}"


async def speak(run: Run) -> None:
    """Says words of its own, which cost nothing, and asks the model twice, side by side."""
    for word in ("my ", "own ", "words "):
        await run.token(word)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(run.generate, "fake", "hi")


@pytest.mark.parametrize("end", ["at once", "after it was told"])
@pytest.mark.parametrize(
    ("model", "asked", "tokens", "cost"),
    [
        (FakeUpstream(("a",)), "model", 3, 5),
        (FakeUpstream(("a",), ("b",), ("c",), finish=None), "model", 3, 6),
        (FakeUpstream(("a",), ("b",), UpstreamError("upstream_cut", "cut", retryable=True)), "model", 2, 4),
        (FakeUpstream(("a",), ("b",), ("c",), FOREVER), "model", 3, 6),
        (FakeUpstream((Reasoning("a"),), (Reasoning("b"),), FOREVER), "model", 2, 4),
        (FakeAgent(Say([["so "]], [("free", '{"what": "a"}')]), Say([["a"], ["b"], FOREVER])), "tools", 5, 9),
        (FakeAgent(Say([[ArgumentsDelta(0, "free", '{"what"')], FOREVER])), "tools", 1, 2),
        (FakeUpstream(("a",), ("b",), FOREVER), "workflow", 4, 8),
        (FakeUpstream(("a",)), "workflow", 6, 10),
    ],
    ids=["counted", "not counted", "cut", "cancelled", "thought", "second round", "arguments", "workflow", "both"],
)
async def test_what_came_is_used_however_the_run_ends(
    model: FakeUpstream, asked: str, tokens: int, cost: int, end: str, autojump_clock: MockClock
) -> None:
    """Else somebody who cancels each answer just before its end would never reach a limit of cost."""
    limits, registry = Counted(), app(free, Workflow("speak", speak))
    async with process(MemoryBackend().process(), model, registry=registry, prices=PRICES, limits=limits) as here:
        if asked == "workflow":
            run = await play(here, workflow="speak")
        else:
            run = await play(here, model="fake", tools=("free",) if asked == "tools" else ())
        await trio.sleep(0.1 if end == "at once" else 60)
        if not (await snapshot(here, run)).ended:
            await cancel(here, *run)
        await trio.sleep(1)
        assert (limits.tokens, limits.cost) == (tokens, cost)
