"""Erasing streams on Postgres in races with an open transaction: no event, snapshot or writer is left behind."""

from contextlib import suppress

import pytest
import trio

from eventstore import Erased, EventStore, Snapshot, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from eventstore.postgres.db_connection import STATEMENTS, ReconnectingConnection
from tests.eventstore.connections import append, sessions, wait_until_blocked
from tests.eventstore.sample_events import BOUND, is_gapless, names, read_all, sample_append
from tests.harness.databases import Postgres, TestDatabase

LEFT = """
SELECT s.name FROM streams s
 WHERE s.head < s.earliest AND (EXISTS (SELECT FROM events e WHERE e.stream = s.id)
                                OR EXISTS (SELECT FROM snapshots p WHERE p.stream = s.id)
                                OR EXISTS (SELECT FROM writers w WHERE w.stream = s.id))
"""


def new_store(database: TestDatabase) -> EventStore:
    return EventStore(PostgresBackend(PostgresOptions(database.app_url, database.owner_url)))


async def erase(session: ReconnectingConnection, seconds: float = -1.0, limit: int = 100) -> list[str]:
    return [row[0] for row in await session.fetch(STATEMENTS["erase_streams"], "talk", seconds, limit)]


async def test_stream_with_an_open_append_is_skipped(database: TestDatabase) -> None:
    async with (
        new_store(database).open() as store,
        sessions(database.app_url, "rival") as (rival,),
        sessions(database.owner_url, "eraser") as (eraser,),
    ):
        for stream in "abc":
            await store.append(sample_append(stream, 1, category="talk"))
        await rival.fetch("BEGIN")
        await append(rival, sample_append("b", 2))
        with trio.fail_after(BOUND):
            assert await erase(eraser) == ["a", "c"]
        await rival.fetch("COMMIT")
        assert names(await read_all(store, "b")) == ["1", "2"]
        assert await erase(eraser) == ["b"]
        assert await eraser.fetch(LEFT) == []


async def test_append_waiting_for_the_erasing_is_refused(database: TestDatabase) -> None:
    """A token on the shortest path, a new writer, and an append during a writer."""
    async with (
        new_store(database).open() as store,
        sessions(database.owner_url, "eraser") as (eraser,),
        sessions(database.app_url, "token", "plain", "speaks", "watcher") as (token, plain, speaks, watcher),
    ):
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1), category="talk"))
        await eraser.fetch("UPDATE writers SET closed = true")
        await eraser.fetch("BEGIN")
        assert await erase(eraser) == ["s"]
        answers: dict[str, object] = {}

        async def go(session: ReconnectingConnection, name: str, **options: object) -> None:
            try:
                (row,) = await append(session, sample_append("s", name, **options))
                answers[name] = row["verdict"]
            except DatabaseRefused as refusal:
                answers[name] = refusal.sqlstate

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: go(token, "token", writer=Writer("w", 1, 2)))
            nursery.start_soon(lambda: go(plain, "plain"))
            nursery.start_soon(lambda: go(speaks, "speaks", during="w"))
            for name in ("token", "plain", "speaks"):
                await wait_until_blocked(watcher, name)
            await eraser.fetch("COMMIT")
        assert answers == {"token": "fenced_sequence", "plain": "23514", "speaks": "23514"}
        assert await eraser.fetch(LEFT) == []
        with pytest.raises(Erased):
            await store.read("s")


async def test_snapshot_saved_meanwhile_is_erased_or_refused(database: TestDatabase) -> None:
    """Whichever of the two comes first."""
    save = STATEMENTS["save_snapshot"]
    async with (
        new_store(database).open() as store,
        sessions(database.owner_url, "eraser") as (eraser,),
        sessions(database.app_url, "folds", "watcher") as (folds, watcher),
    ):
        for stream in ("s", "t"):
            await store.append(sample_append(stream, 1, category="talk"))
        await folds.fetch("BEGIN")
        await folds.fetch(save, "s", "fold", 1, "{}")
        assert (await store.append(sample_append("s", 2))).first == 2  # which minds neither
        assert await erase(eraser) == ["t"]
        await folds.fetch("COMMIT")
        await eraser.fetch("BEGIN")
        assert await erase(eraser) == ["s"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(folds.fetch, save, "s", "fold", 2, "{}")
            await wait_until_blocked(watcher, "folds")
            await eraser.fetch("COMMIT")
        assert await eraser.fetch("SELECT FROM snapshots") == []


async def test_append_since_the_first_look_is_seen(database: TestDatabase) -> None:
    """The function locks a few streams at a time, and decides on later ones by their state then."""
    async with (
        new_store(database).open() as store,
        sessions(database.owner_url, "eraser", "watcher") as (eraser, watcher),
        sessions(database.app_url, "rival") as (rival,),
    ):
        streams = [f"s{n}" for n in range(30)]
        for stream in streams:
            await store.append(sample_append(stream, 1, writer=Writer("w", 1, 1), closes="w", category="talk"))
        await rival.fetch("BEGIN")
        await rival.fetch(
            "SELECT FROM writers w JOIN streams s ON s.id = w.stream WHERE s.name = 's0' FOR UPDATE OF w"
        )
        gone: list[str] = []

        async def go() -> None:
            gone.extend(await erase(eraser))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            await wait_until_blocked(watcher, "eraser")
            await store.append(sample_append("s28", 2, writer=Writer("v", 1, 1)))
            await store.append(sample_append("s29", 2))
            await rival.fetch("COMMIT")
        assert gone == [stream for stream in streams if stream != "s28"]
        assert await eraser.fetch(LEFT) == []
        assert names(await read_all(store, "s28")) == ["1", "2"]
        assert (await store.append(sample_append("s28", 3, writer=Writer("v", 1, 2)))).first == 3


async def test_erased_streams_leave_no_category_row(database: TestDatabase) -> None:
    """Such a row would slow every later look; and a stream without events does not count as old."""
    async with new_store(database).open() as store, sessions(database.owner_url, "eraser") as (eraser,):
        await store.append(sample_append("s", 1, category="talk"))
        await eraser.fetch("INSERT INTO streams (name, category) VALUES ('empty', 'talk')")
        assert await erase(eraser) == ["s"]
        assert await erase(eraser) == []
        rows = await eraser.fetch("SELECT name, category FROM streams ORDER BY id")
        assert [tuple(row) for row in rows] == [("s", ""), ("empty", "talk")]
        assert (await store.append(sample_append("empty", 1))).first == 1


async def test_large_streams_are_erased_in_several_calls(postgres: Postgres, database: TestDatabase) -> None:
    grow = """
INSERT INTO eventstore.events SELECT id, n, now(), 'x', NULL, '{}'
  FROM eventstore.streams, generate_series(2, 6000) n;
UPDATE eventstore.streams SET head = 6000
"""
    async with new_store(database).open() as store, sessions(database.owner_url, "eraser") as (eraser,):
        for stream in "abcde":
            await store.append(sample_append(stream, 1, category="talk"))
        postgres.sql(grow, database.name)
        assert [await erase(eraser) for _ in range(4)] == [["a", "b"], ["c", "d"], ["e"], []]
        assert await eraser.fetch("SELECT FROM events") == []


async def test_two_processes_erase_under_appends(database: TestDatabase) -> None:
    """In the end each stream is there as a whole, or gone as a whole."""
    streams = [f"s{n}" for n in range(30)]
    confirmed: dict[str, int] = dict.fromkeys(streams, 0)
    erased: list[str] = []

    async with new_store(database).open() as one, new_store(database).open() as two:

        async def write(n: int, stream: str) -> None:
            with suppress(Erased):
                for turn in range(12):
                    store = (one, two)[(n + turn) % 2]
                    name = f"w{turn}"
                    for append_ in (
                        sample_append(stream, turn, category="talk"),
                        sample_append(stream, turn, writer=Writer(name, 1, 1), category="talk"),
                        sample_append(stream, turn, during=name),
                        sample_append(stream, turn, closes=name),
                    ):
                        await store.append(append_)
                        confirmed[stream] += 1

        async def sweep(store: EventStore) -> None:
            while len(erased) < len(streams) // 2:
                erased.extend(await store.erase_streams("talk", -1.0, 2))
                await store.save_snapshot(erased[-1] if erased else "s0", "fold", Snapshot(1, "{}"))

        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                for n, stream in enumerate(streams):
                    nursery.start_soon(write, n, stream)
                for store in (one, two):
                    nursery.start_soon(sweep, store)
        assert len(erased) == len(set(erased)) < len(streams)
        async with sessions(database.owner_url, "watcher") as (watcher,):
            assert await watcher.fetch(LEFT) == []
            heads = {row["name"]: row["head"] for row in await watcher.fetch("SELECT name, head FROM streams")}
        assert heads == confirmed
        for stream in streams:
            if stream in erased:
                for store in (one, two):
                    with pytest.raises(Erased):
                        await store.read(stream)
            else:
                events = await read_all(one, stream)
                assert is_gapless(events)
                assert len(events) == 48
