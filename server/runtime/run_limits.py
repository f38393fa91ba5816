"""How many runs somebody may have, and what they use: what the runtime asks and tells, whoever keeps the books.

Owns the protocol, and the task that tells what is used while runs go on. Must not know how limits are set, nor
that other servers have runs too.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from server.config.price_table import PriceTable
from server.generations.executors import Attempt
from server.generations.supervisor import Supervisor

REPORT_SECONDS = 5.0
"""Between two reports of what runs have used that go on; each is reported once more when it ends."""


class RunLimits(Protocol):
    """Lets runs start, and is told what they use."""

    def watch_runs(self, runs: Callable[[], Iterable[Attempt]]) -> None:
        """`runs` returns the runs that this process has."""
        ...

    def starting(
        self, tenant: str, subject: str, generation: str, conversation: str | None
    ) -> AbstractAsyncContextManager[None]:
        """Around the start of a run that somebody asks for. Raises `Problem` where they may start none now."""
        ...

    async def check_day(self, tenant: str, subject: str) -> None:
        """Raises `Problem` where somebody's runs have used up what they may use in a day; `StoreUnavailable`."""
        ...

    def add_use(self, tenant: str, subject: str, tokens: float, cost: float) -> None:
        """Somebody's run has used so much more."""
        ...


class NoRunLimits:
    """Everybody may start any number of runs, and nothing is counted."""

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


def report_use(limits: RunLimits, prices: PriceTable, attempt: Attempt) -> None:
    """Tells what an attempt has used since the last time."""
    tokens, cost = attempt.stats.take_use(prices)
    if tokens > 0 or cost > 0:
        limits.add_use(attempt.tenant, attempt.subject, tokens, cost)


async def report_running(limits: RunLimits, prices: PriceTable, supervisor: Supervisor) -> None:
    """Tells what the runs of a process use, every `REPORT_SECONDS`, for ever."""
    while True:
        await trio.sleep(REPORT_SECONDS)
        for attempt in list(supervisor.runs.values()):
            report_use(limits, prices, attempt)
