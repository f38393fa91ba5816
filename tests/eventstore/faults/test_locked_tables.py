"""A table that somebody holds for a while, as a migration or an index does: what does not need it is answered.

Each table by each question; and whatever keeps the log tidy may fail without anybody else's noticing.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.lowlevel

from eventstore import Appended, EventStore, Observer, Snapshot, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import BOUND, names, note, whole
from tests.harness.databases import Postgres, TestDatabase

OPTIONS = StoreOptions(call_timeout=BOUND, safety_poll=600.0)
TABLES = ("streams", "events", "writers", "keys", "snapshots")

Ask = Callable[[EventStore], Awaitable[object]]
QUESTIONS: dict[str, tuple[Ask, frozenset[str]]] = {
    "append": (lambda store: store.append(note("s", "x")), frozenset({"streams", "events", "writers", "keys"})),
    "a token": (
        lambda store: store.append(note("t", "t", writer=Writer("w", 1, 2))),
        frozenset({"streams", "events", "writers"}),
    ),
    "read": (lambda store: store.read("s"), frozenset({"streams", "events"})),
    "head": (lambda store: store.head("s"), frozenset({"streams"})),
    "find_key": (lambda store: store.find_key("k", "k"), frozenset({"streams", "keys"})),
    "load_snapshot": (lambda store: store.load_snapshot("s", "f", 9), frozenset({"streams", "snapshots"})),
    "save_snapshot": (
        lambda store: store.save_snapshot("s", "f", Snapshot(1, "{}")),
        frozenset({"streams", "snapshots"}),
    ),
    "writer": (lambda store: store.writer("s", "w"), frozenset({"streams", "writers"})),
    "release": (lambda store: store.release([("s", "w")]), frozenset({"streams", "writers"})),
    "closed_by_others": (lambda store: store.closed_by_others(), frozenset({"streams", "writers"})),
    "open_writers": (lambda store: store.open_writers(), frozenset({"streams", "writers"})),
    "list_streams": (lambda store: store.list_streams("", None, 5), frozenset({"streams"})),
    "expire_keys": (lambda store: store.expire_keys(), frozenset({"keys"})),
    "clock": (lambda store: store.clock(), frozenset()),
    "alive": (lambda store: store.alive(), frozenset()),
}


@pytest.mark.parametrize("table", TABLES)
async def test_what_does_not_need_it_is_answered_and_the_rest_once_it_is_back(
    database: TestDatabase, table: str
) -> None:
    answered: set[str] = set()
    free = {name for name, (_, needs) in QUESTIONS.items() if table not in needs}

    async def ask(name: str) -> None:
        await QUESTIONS[name][0](store)
        answered.add(name)

    async with (
        EventStore(
            PostgresBackend(PostgresOptions(database.app_url, parallel_appends=4)), OPTIONS
        ).open() as store,
        sessions(database.owner_url, "holder") as (holder,),
    ):
        for stream in ("s", "t"):
            await store.append(note(stream, "opened", writer=Writer("w", 1, 1)))
        await holder.fetch("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
        await holder.fetch("BEGIN")
        await holder.fetch(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        async with trio.open_nursery() as nursery:
            # Those that have to wait are there first, in every line.
            for name in sorted(QUESTIONS, key=lambda name: name in free):
                nursery.start_soon(ask, name)
                await trio.lowlevel.checkpoint()
            with trio.fail_after(BOUND / 2):
                while not free <= answered:
                    await trio.sleep(0.01)
            assert answered == free
            for name in free - {"append", "a token"}:  # and again, while the others go on waiting
                with trio.fail_after(BOUND / 2):
                    await QUESTIONS[name][0](store)
            assert answered == free
            await holder.fetch("COMMIT")
        assert answered == set(QUESTIONS)
        assert sorted(names(await whole(store, "s"))) == ["opened", "x"]


class Told(Observer):
    """What an observer is told, in one line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.over = False

    def unavailable(self, why: str) -> None:
        self.lines.append("away")

    def maintenance_failed(self, call: str, why: str) -> None:
        self.lines.append(f"neglected {call}")


async def test_an_owner_that_cannot_be_reached_is_nobody_elses_outage(database: TestDatabase) -> None:
    """Its password was changed, or a firewall is in front of it: erasing fails, and everything else goes on."""
    told = Told()
    nowhere = database.owner_url.replace("tokentape_owner", "nobody")
    log = PostgresBackend(PostgresOptions(database.app_url, nowhere))
    options = StoreOptions(call_timeout=0.5, safety_poll=600.0, observer=told)
    async with EventStore(log, options).open() as store, trio.open_nursery() as nursery:
        await store.append(note("s", 1, category="talk"))

        async def erase() -> None:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await store.erase_streams("talk", 0.0)
            told.over = True

        nursery.start_soon(erase)
        while not told.over:
            with trio.fail_after(BOUND):
                await store.alive()
                assert await store.expire_keys() == 0
                assert await store.find_key("k", "k") is None
                await store.append(note("s", 2))
            assert store.stats().up
            await trio.sleep(0.05)
    assert told.lines == ["neglected erase_streams"]
    assert store.stats().outages == 0
    assert sum(store.stats().failures.values()) >= 3


async def test_a_row_that_is_held_for_longer_than_one_try(breakable: Postgres, database: TestDatabase) -> None:
    """It is waited for as long as there is patience, not for one `lock_timeout`; nobody else waits with it."""
    answers: dict[str, Appended] = {}
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), OPTIONS).open() as store,
        sessions(database.app_url, "holder") as (holder,),
    ):
        streams = [f"s{n}" for n in range(40)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(partial(store.append, note(stream, "opened", writer=Writer("w", 1, 1))))
        await holder.fetch("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name IN ('s7', 's23') FOR UPDATE")

        async def append(stream: str, seq: int) -> None:
            answers[f"{stream} {seq}"] = await store.append(note(stream, seq, writer=Writer("w", 1, seq)))

        async with trio.open_nursery() as nursery:
            for seq in (2, 3):  # the second of each stream stands behind the first
                for stream in streams:
                    nursery.start_soon(append, stream, seq)
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(BOUND / 2):
                while len(answers) < 2 * (len(streams) - 2):
                    await trio.sleep(0.01)
            # More than one try of the two has failed by now, and others are still taken at once.
            with trio.fail_after(BOUND / 2):
                while store.stats().failures.get("locked", 0) < 3:
                    began = trio.current_time()
                    await store.append(note("other", 1))
                    assert trio.current_time() - began < 0.9
            assert not any(key.startswith(("s7 ", "s23 ")) for key in answers)
            await holder.fetch("COMMIT")
        for stream in ("s7", "s23"):
            assert names(await whole(store, stream)) == ["opened", "2", "3"]
            assert [answers[f"{stream} {seq}"].first for seq in (2, 3)] == [2, 3]


async def test_patience_ends_for_a_row_that_is_never_given_back(database: TestDatabase) -> None:
    options = StoreOptions(call_timeout=2.5, safety_poll=600.0)
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), options).open() as store,
        sessions(database.app_url, "holder") as (holder,),
    ):
        await store.append(note("s", 1))
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name = 's' FOR UPDATE")
        with trio.fail_after(options.call_timeout + 2.0), pytest.raises(StoreUnavailable):
            await store.append(note("s", 2))
        assert store.stats().failures["locked"] >= 2
        await holder.fetch("COMMIT")
        await store.append(note("s", 3))
        assert names(await whole(store, "s"))[-1] == "3"
