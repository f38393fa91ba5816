"""A table that is locked for a while, as by a migration: calls that do not need it are answered.

Each table by each call. The store's housekeeping may fail without anybody else noticing.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.lowlevel

from eventstore import Appended, EventStore, Observer, Snapshot, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append
from tests.harness.databases import Postgres, TestDatabase

OPTIONS = StoreOptions(call_timeout=BOUND, safety_poll=600.0)
TABLES = ("streams", "events", "writers", "keys", "snapshots")

Ask = Callable[[EventStore], Awaitable[object]]
QUESTIONS: dict[str, tuple[Ask, frozenset[str]]] = {
    "append": (
        lambda store: store.append(sample_append("s", "x")),
        frozenset({"streams", "events", "writers", "keys"}),
    ),
    "a token": (
        lambda store: store.append(sample_append("t", "t", writer=Writer("w", 1, 2))),
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
async def test_locked_table_delays_only_calls_that_need_it(database: TestDatabase, table: str) -> None:
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
            await store.append(sample_append(stream, "opened", writer=Writer("w", 1, 1)))
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
        assert sorted(names(await read_all(store, "s"))) == ["opened", "x"]


class RecordingObserver(Observer):
    """Keeps what an observer is told, in one line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.over = False

    def unavailable(self, why: str) -> None:
        self.lines.append("away")

    def maintenance_failed(self, call: str, why: str) -> None:
        self.lines.append(f"neglected {call}")


async def test_unreachable_owner_role_fails_only_erasing(database: TestDatabase) -> None:
    """Its password was changed, or a firewall is in front of it: everything else goes on."""
    observer = RecordingObserver()
    nowhere = database.owner_url.replace("tokentape_owner", "nobody")
    log = PostgresBackend(PostgresOptions(database.app_url, nowhere))
    options = StoreOptions(call_timeout=0.5, safety_poll=600.0, observer=observer)
    async with EventStore(log, options).open() as store, trio.open_nursery() as nursery:
        await store.append(sample_append("s", 1, category="talk"))

        async def erase() -> None:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await store.erase_streams("talk", 0.0)
            observer.over = True

        nursery.start_soon(erase)
        while not observer.over:
            with trio.fail_after(BOUND):
                await store.alive()
                assert await store.expire_keys() == 0
                assert await store.find_key("k", "k") is None
                await store.append(sample_append("s", 2))
            assert store.stats().up
            await trio.sleep(0.05)
    assert observer.lines == ["neglected erase_streams"]
    assert store.stats().outages == 0
    assert sum(store.stats().failures.values()) >= 3


async def test_held_row_is_waited_for_beyond_one_lock_timeout(breakable: Postgres, database: TestDatabase) -> None:
    """The append waits up to its call's time limit, not for one `lock_timeout`, and nobody waits with it."""
    answers: dict[str, Appended] = {}
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), OPTIONS).open() as store,
        sessions(database.app_url, "holder") as (holder,),
    ):
        streams = [f"s{n}" for n in range(40)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(
                    partial(store.append, sample_append(stream, "opened", writer=Writer("w", 1, 1)))
                )
        await holder.fetch("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name IN ('s7', 's23') FOR UPDATE")

        async def append(stream: str, seq: int) -> None:
            answers[f"{stream} {seq}"] = await store.append(sample_append(stream, seq, writer=Writer("w", 1, seq)))

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
                    await store.append(sample_append("other", 1))
                    assert trio.current_time() - began < 0.9
            assert not any(key.startswith(("s7 ", "s23 ")) for key in answers)
            await holder.fetch("COMMIT")
        for stream in ("s7", "s23"):
            assert names(await read_all(store, stream)) == ["opened", "2", "3"]
            assert [answers[f"{stream} {seq}"].first for seq in (2, 3)] == [2, 3]


async def test_row_held_for_ever_fails_after_the_time_limit(database: TestDatabase) -> None:
    options = StoreOptions(call_timeout=2.5, safety_poll=600.0)
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), options).open() as store,
        sessions(database.app_url, "holder") as (holder,),
    ):
        await store.append(sample_append("s", 1))
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name = 's' FOR UPDATE")
        with trio.fail_after(options.call_timeout + 2.0), pytest.raises(StoreUnavailable):
            await store.append(sample_append("s", 2))
        assert store.stats().failures["locked"] >= 2
        await holder.fetch("COMMIT")
        await store.append(sample_append("s", 3))
        assert names(await read_all(store, "s"))[-1] == "3"
