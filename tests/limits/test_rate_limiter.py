"""What several servers on one database hold together, whose limits count for whom, and what an outage does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from eventstore import StoreUnavailable
from server.auth.limits.limit_list import parse_limits
from server.auth.limits.rate_limiter import IDLE_SECONDS, RateLimiter, account_names
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.principal import ALL_SCOPES, ANONYMOUS, Principal
from server.ids import new_id
from server.problem import Problem
from tests.auth.conftest import Stores, auth_database, closed_stores, database, stores  # noqa: F401

ADA = Principal("acme", "ada", ALL_SCOPES, "jwt")
BOB = Principal("acme", "bob", ALL_SCOPES, "jwt")
KEY = Principal("acme", new_id("key"), ALL_SCOPES, "key_1")


@dataclass
class Run:
    """A run as the limiter sees it."""

    tenant: str
    subject: str
    generation: str
    conversation: str = "conv_1"
    waits: bool = False


class Server:
    """A limiter with the runs of its process."""

    def __init__(self, limits: str, store: object) -> None:
        self.refused: list[str] = []
        self.limiter = RateLimiter(parse_limits(limits), store, self.refused.append)  # type: ignore[arg-type]
        self.runs: list[Run] = []
        self.limiter.watch_runs(lambda: self.runs)

    async def start(self, who: Principal, conversation: str | None = None) -> bool:
        """Whether a run of somebody was let in; from then on it works."""
        generation = f"gen_{len(self.runs)}"
        self.limiter.count_request(who)
        try:
            async with self.limiter.starting(who.tenant, who.subject, generation, conversation):
                self.runs.append(Run(who.tenant, who.subject, generation, conversation or generation))
        except Problem as problem:
            if problem.code != "rate_limited":
                raise
            return False
        return True


@asynccontextmanager
async def two_servers(limits: str, store: object) -> AsyncIterator[tuple[Server, Server]]:
    one, two = Server(limits, store), Server(limits, store)
    async with one.limiter.open(), two.limiter.open():
        yield one, two


# -- on memory and on Postgres


async def test_two_servers_hold_runs(stores: Stores) -> None:  # noqa: F811
    async with two_servers("user.runs=3", stores.app) as (one, two):
        assert [await one.start(ADA), await two.start(ADA), await two.start(ADA)] == [True] * 3
        assert [await one.start(ADA), await two.start(ADA)] == [False, False]
        assert await two.start(BOB)
        two.runs.pop(0)
        await trio.sleep(1.1)  # a server tells of the end of a run within a second
        assert [await one.start(ADA), await two.start(ADA)] == [True, False]
        assert one.refused == ["user.runs"]


async def test_two_servers_never_start_more_at_once(stores: Stores) -> None:  # noqa: F811
    """All at the same moment: at least one of two servers sees the other's."""
    async with two_servers("tenant.runs=3", stores.app) as servers:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(servers[number % 2].start, ADA)
        assert len(servers[0].runs) + len(servers[1].runs) <= 3


async def test_two_servers_hold_tokens_and_cost(stores: Stores) -> None:  # noqa: F811
    async with two_servers("tenant.tokens=100/day, user.cost=5/day", stores.app) as (one, two):
        assert await two.start(ADA)
        one.limiter.add_use("acme", "ada", 60, 1.0)
        two.limiter.add_use("acme", "bob", 40, 5.0)
        await one.limiter.write_usage()
        await two.limiter.write_usage()
        assert not await one.start(KEY)
        assert one.refused == ["tenant.tokens"]
        assert not await two.start(ADA)
        assert await two.start(Principal("rival", "ada", ALL_SCOPES, "jwt"))
        day = await stores.app.read_usage([("user:acme/bob", "cost"), ("user:acme/bob", "tokens")])
        assert list(day.sums.values()) == [5.0, 0.0]  # what is limited nowhere is not written


async def test_a_server_that_died_falls_out(stores: Stores) -> None:  # noqa: F811
    dead, alive = Server("key.runs=1", stores.app), Server("key.runs=1", stores.app)
    assert await dead.start(KEY)
    await dead.limiter._share_counts()
    assert not await alive.start(KEY)
    stores.age(5.1)
    assert await alive.start(KEY)


async def test_what_was_used_is_written_when_the_server_stops(stores: Stores) -> None:  # noqa: F811
    server = Server("", stores.app)
    async with server.limiter.open():
        server.limiter.add_use(KEY.tenant, KEY.subject, 7, 0.5)
    day = await stores.app.read_usage([(KEY.subject, "tokens"), (KEY.subject, "cost")])
    assert list(day.sums.values()) == [7.0, 0.5]


# -- in virtual time


async def test_two_servers_hold_readers_after_two_seconds(autojump_clock: MockClock) -> None:
    async with two_servers("user.readers=2", MemoryAuthStore()) as (one, two):
        releases = [one.limiter.open_reader(ADA), one.limiter.open_reader(ADA)]
        await trio.sleep(2.5)
        with pytest.raises(Problem, match=r"user\.readers=2 \(open streams"):
            two.limiter.check_reader(ADA)
        for release in (*releases, *releases):  # a second time does nothing
            release()
        await trio.sleep(2.5)
        two.limiter.check_reader(ADA)


async def test_while_the_database_is_away(autojump_clock: MockClock) -> None:
    """Requests and readers go on with what is known; a run is neither let in nor refused."""
    store = MemoryAuthStore()
    async with two_servers("user.requests=2/s, user.readers=1, user.runs=5, user.tokens=9/day", store) as (one, _):
        store.available = False
        one.limiter.add_use("acme", "ada", 9, 0)
        one.limiter.count_request(ADA)
        one.limiter.open_reader(ADA)()
        with pytest.raises(StoreUnavailable):
            await one.start(ADA)
        await trio.sleep(10)
        store.available = True
        assert not await one.start(ADA)  # what was used meanwhile is not lost
        await trio.sleep(2)
        assert (await store.read_usage([("user:acme/ada", "tokens")])).sums == {("user:acme/ada", "tokens"): 9.0}


async def test_whoever_is_quiet_is_forgotten(autojump_clock: MockClock) -> None:
    async with two_servers("user.requests=2/s, tenant.readers=9", MemoryAuthStore()) as (one, _):
        release = one.limiter.open_reader(BOB)
        for number in range(100):
            one.limiter.count_request(Principal("acme", f"user {number}", ALL_SCOPES, "jwt"))
        assert len(one.limiter._callers) == 101
        await trio.sleep(IDLE_SECONDS + 2)
        assert not one.limiter._callers
        assert set(one.limiter._accounts) == {"user:acme/bob", "tenant:acme"}
        one.limiter.check_reader(ADA)
        release()
        del release
        assert not set(one.limiter._accounts) - {"user:acme/ada", "tenant:acme"}


@pytest.mark.parametrize("waits", [False, True])
async def test_runs_that_wait_take_no_place_until_there_are_too_many(
    waits: bool, autojump_clock: MockClock
) -> None:
    async with two_servers("user.runs=1", MemoryAuthStore()) as (one, _):
        one.runs = [Run("acme", "ada", "gen_x", waits=waits)]
        assert await one.start(ADA) is waits
        one.runs = [Run("acme", "ada", f"gen_w{number}", waits=True) for number in range(20)]
        assert not await one.start(ADA)


def test_whose_accounts_are_charged() -> None:
    assert account_names("acme", "ada") == (("user", "user:acme/ada"), ("tenant", "tenant:acme"))
    assert account_names("acme", KEY.subject) == (("key", KEY.subject), ("tenant", "tenant:acme"))
    assert account_names(ANONYMOUS.tenant, ANONYMOUS.subject)[0] == ("user", "user:default/anonymous")


LIMITS = st.fixed_dictionaries({level: st.integers(1, 8) for level in ("key", "user", "tenant")})
ASKED = st.lists(st.tuples(st.sampled_from([ADA, BOB, KEY]), st.sampled_from([0.0, 0.01, 0.2, 0.6])), max_size=60)


@settings(deadline=None, max_examples=50)
@given(LIMITS, ASKED)
def test_no_more_are_let_in_than_each_window_allows(
    limits: dict[str, int], asked: list[tuple[Principal, float]]
) -> None:
    taken: dict[str, list[float]] = {}
    text = ", ".join(f"{level}.requests={number}/s" for level, number in limits.items())

    async def main() -> None:
        limiter = RateLimiter(parse_limits(text), MemoryAuthStore())
        for who, gap in asked:
            await trio.sleep(gap)
            now = trio.current_time()
            accounts = account_names(who.tenant, who.subject)
            try:
                limiter.count_request(who)
            except Problem as problem:
                told.append((problem.extra["limit"], problem.retry_after))
                continue
            for level, name in accounts:
                times = taken.setdefault(name, [])
                times.append(now)
                assert sum(one > now - 1 + 1e-9 for one in times) <= limits[level]

    told = list[tuple[str, float | None]]()
    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert all(limit.endswith(".requests") and wait in (1, 2) for limit, wait in told)
