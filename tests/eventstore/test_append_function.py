"""The SQL function `append` in races with an open transaction: it decides only on rows that it has locked."""

import pytest
import trio

from eventstore import Append, EventStore, Key, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from eventstore.postgres.db_connection import ReconnectingConnection
from tests.eventstore.connections import append, sessions, wait_until_blocked
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append
from tests.harness.databases import TestDatabase


class ConcurrentBatch:
    """A batch under way, and once they are there its verdicts: verdict and head for each stream."""

    def __init__(self, session: ReconnectingConnection, *batch: Append) -> None:
        self._session = session
        self._batch = batch
        self._done = trio.Event()
        self._verdicts: dict[str, tuple[str, int]] = {}

    async def run(self) -> None:
        for row in await append(self._session, *self._batch):
            self._verdicts[row["stream"]] = row["verdict"], row["head"]
        self._done.set()

    async def verdicts(self) -> dict[str, tuple[str, int]]:
        with trio.fail_after(BOUND):
            await self._done.wait()
        return self._verdicts


async def test_stream_created_during_the_wait_is_locked_first(database: TestDatabase) -> None:
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store,
        sessions(database.app_url, "holder", "judged", "rival", "watcher") as (holder, judged, rival, watcher),
        trio.open_nursery() as nursery,
    ):
        await store.append(sample_append("there", "opened"))
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name = 'there' FOR UPDATE")
        batch = ConcurrentBatch(
            judged, sample_append("there", "judged"), sample_append("new", "judged", expected=3)
        )
        nursery.start_soon(batch.run)
        await wait_until_blocked(watcher, "judged")  # it has looked for what to lock: `new` was not there
        await store.append(sample_append("new", 1, 2, 3))
        await rival.fetch("BEGIN")
        await append(rival, sample_append("new", "rival"))
        await holder.fetch("COMMIT")
        with trio.move_on_after(0.3):  # without the lock it would run into the rival's event, and wait there
            await wait_until_blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"there": ("appended", 1), "new": ("wrong_position", 0)}
        assert names(await read_all(store, "new")) == ["1", "2", "3", "rival"]
        assert names(await read_all(store, "there")) == ["opened", "judged"]


@pytest.mark.parametrize(("end", "verdict"), [("COMMIT", "repeated_key"), ("ROLLBACK", "appended")])
async def test_append_waits_for_a_concurrent_claim_of_its_key(
    database: TestDatabase, end: str, verdict: str
) -> None:
    """The verdict comes after the wait, and sees whether the other transaction committed."""
    keys = (Key("k", "k", b"1"),)
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await rival.fetch("BEGIN")
        await append(rival, sample_append("rival", 1, keys=keys))
        batch = ConcurrentBatch(judged, sample_append("judged", 1, keys=keys))
        nursery.start_soon(batch.run)
        await wait_until_blocked(watcher, "judged")
        await rival.fetch(end)
        ((stream, (said, _)),) = (await batch.verdicts()).items()
        assert (said, stream) == (verdict, "rival" if said == "repeated_key" else "judged")


async def test_writer_closed_during_the_wait_is_fenced(database: TestDatabase) -> None:
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await append(rival, sample_append("s", 1, writer=Writer("w", 1, 1)))
        await rival.fetch("BEGIN")
        await append(rival, sample_append("s", "cancelled", closes="w"))
        batch = ConcurrentBatch(judged, sample_append("s", "token", writer=Writer("w", 1, 2)))
        nursery.start_soon(batch.run)
        await wait_until_blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"s": ("fenced_closed", 2)}


async def test_append_during_a_writer_closed_meanwhile_is_fenced(database: TestDatabase) -> None:
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await append(rival, sample_append("s", 1, writer=Writer("w", 1, 1)))
        await rival.fetch("BEGIN")
        await append(rival, sample_append("s", "last", writer=Writer("w", 1, 2), closes="w"))
        batch = ConcurrentBatch(judged, sample_append("s", "too late", during="w"))
        nursery.start_soon(batch.run)
        await wait_until_blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"s": ("fenced_closed", 2)}


@pytest.mark.parametrize(
    ("options", "verdict", "left"),
    [
        ({"writer": Writer("w", 0, 1)}, "fenced_unknown", (0, 1, False)),
        ({"writer": Writer("w", 0, 1), "closes": "w"}, "fenced_closed", (0, 1, True)),
        ({"closes": "w"}, "fenced_closed", (0, 0, True)),
    ],
    ids=["began", "began and ended", "was closed before it began"],
)
async def test_append_during_a_writer_begun_meanwhile(
    database: TestDatabase, options: dict[str, object], verdict: str, left: tuple[object, ...]
) -> None:
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await append(rival, sample_append("s", 1))
        await rival.fetch("BEGIN")
        await append(rival, sample_append("s", "begin", **options))
        batch = ConcurrentBatch(judged, sample_append("s", "too early", during="w"))
        nursery.start_soon(batch.run)
        await wait_until_blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"s": (verdict, 2)}
        rows = await judged.fetch("SELECT epoch, seq, closed FROM writers")
        assert [tuple(row) for row in rows] == [left]


async def test_token_is_appended_at_the_moved_head(database: TestDatabase) -> None:
    """The function's shortest path, too, reads the rows under the lock."""
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        for name in ("v", "w"):
            await append(rival, sample_append("s", name, writer=Writer(name, 1, 1)))
        await append(rival, sample_append("t", "t", writer=Writer("w", 1, 1)))
        await rival.fetch("BEGIN")
        await append(rival, sample_append("s", "token", "token", writer=Writer("v", 1, 2)))
        mine = (
            sample_append("t", "token", writer=Writer("w", 1, 2)),
            sample_append("s", "token", writer=Writer("w", 1, 2)),
        )
        batch = ConcurrentBatch(judged, *mine)
        nursery.start_soon(batch.run)
        await wait_until_blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"s": ("appended", 4), "t": ("appended", 1)}
        again = {row["stream"]: (row["verdict"], row["first"]) for row in await append(judged, *mine)}
        assert again == {"s": ("repeated_seq", 5), "t": ("repeated_seq", 2)}


async def test_batches_in_any_order_do_not_deadlock(database: TestDatabase) -> None:
    """Old and new streams, keys and writers, each process in another order: all come through at the first try."""
    streams = [f"s{n}" for n in range(12)]
    async with sessions(database.app_url, "a", "b", "c", "d") as opened:

        async def write(session: ReconnectingConnection, turn: int) -> None:
            for n in range(25):
                shift = (turn * 5 + n * 7) % len(streams)
                mine = [*streams[shift:], *streams[:shift]]
                if turn % 2:
                    mine.reverse()
                batch = [
                    sample_append(
                        stream, n, keys=(Key("k", f"{stream} {n}", b"1"), Key("k", f"{turn} {n} {stream}"))
                    )
                    for stream in (*mine[:8], f"new {n}", f"new {turn} {n}")
                ]
                rows = await append(session, *batch)
                assert {row["verdict"] for row in rows} <= {"appended", "repeated_key"}

        async with trio.open_nursery() as nursery:
            for turn, session in enumerate(opened):
                nursery.start_soon(write, session, turn)
