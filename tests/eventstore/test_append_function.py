"""The SQL function `append` in races that need a transaction held open: it judges only what it has locked."""

import pytest
import trio

from eventstore import Append, EventStore, Key, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from eventstore.postgres.db_connection import ReconnectingConnection
from tests.eventstore.connections import append, blocked, sessions
from tests.eventstore.sample_events import BOUND, names, note, whole
from tests.harness.databases import TestDatabase


class Judged:
    """A batch on its way, and its verdicts when they are there: verdict and head, by stream."""

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


async def test_a_stream_that_came_while_it_waited_is_not_written_without_its_lock(database: TestDatabase) -> None:
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store,
        sessions(database.app_url, "holder", "judged", "rival", "watcher") as (holder, judged, rival, watcher),
        trio.open_nursery() as nursery,
    ):
        await store.append(note("there", "opened"))
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name = 'there' FOR UPDATE")
        batch = Judged(judged, note("there", "judged"), note("new", "judged", expected=3))
        nursery.start_soon(batch.run)
        await blocked(watcher, "judged")  # it has looked for what to lock: `new` was not there
        await store.append(note("new", 1, 2, 3))
        await rival.fetch("BEGIN")
        await append(rival, note("new", "rival"))
        await holder.fetch("COMMIT")
        with trio.move_on_after(0.3):  # without the lock it would run into the rival's event, and wait there
            await blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"there": ("appended", 1), "new": ("wrong_position", 0)}
        assert names(await whole(store, "new")) == ["1", "2", "3", "rival"]
        assert names(await whole(store, "there")) == ["opened", "judged"]


@pytest.mark.parametrize(("end", "verdict"), [("COMMIT", "repeated_key"), ("ROLLBACK", "appended")])
async def test_a_key_that_another_claims_meanwhile_is_waited_for(
    database: TestDatabase, end: str, verdict: str
) -> None:
    """The verdict is formed after the wait, and sees what the other has committed, or has not."""
    keys = (Key("k", "k", b"1"),)
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await rival.fetch("BEGIN")
        await append(rival, note("rival", 1, keys=keys))
        batch = Judged(judged, note("judged", 1, keys=keys))
        nursery.start_soon(batch.run)
        await blocked(watcher, "judged")
        await rival.fetch(end)
        ((stream, (said, _)),) = (await batch.verdicts()).items()
        assert (said, stream) == (verdict, "rival" if said == "repeated_key" else "judged")


async def test_a_writer_that_is_closed_meanwhile_is_fenced(database: TestDatabase) -> None:
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await append(rival, note("s", 1, writer=Writer("w", 1, 1)))
        await rival.fetch("BEGIN")
        await append(rival, note("s", "cancelled", closes="w"))
        batch = Judged(judged, note("s", "token", writer=Writer("w", 1, 2)))
        nursery.start_soon(batch.run)
        await blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"s": ("fenced_closed", 2)}


async def test_a_writer_that_is_closed_meanwhile_is_not_spoken_to(database: TestDatabase) -> None:
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await append(rival, note("s", 1, writer=Writer("w", 1, 1)))
        await rival.fetch("BEGIN")
        await append(rival, note("s", "last", writer=Writer("w", 1, 2), closes="w"))
        batch = Judged(judged, note("s", "too late", during="w"))
        nursery.start_soon(batch.run)
        await blocked(watcher, "judged")
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
async def test_a_writer_that_comes_meanwhile_is_not_spoken_to(
    database: TestDatabase, options: dict[str, object], verdict: str, left: tuple[object, ...]
) -> None:
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        await append(rival, note("s", 1))
        await rival.fetch("BEGIN")
        await append(rival, note("s", "begin", **options))
        batch = Judged(judged, note("s", "too early", during="w"))
        nursery.start_soon(batch.run)
        await blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        assert await batch.verdicts() == {"s": (verdict, 2)}
        rows = await judged.fetch("SELECT epoch, seq, closed FROM writers")
        assert [tuple(row) for row in rows] == [left]


async def test_a_head_that_moved_meanwhile_is_where_a_token_goes_on(database: TestDatabase) -> None:
    """The shortest way through the function too sees the rows as they are under the lock."""
    async with (
        sessions(database.app_url, "rival", "judged", "watcher") as (rival, judged, watcher),
        trio.open_nursery() as nursery,
    ):
        for name in ("v", "w"):
            await append(rival, note("s", name, writer=Writer(name, 1, 1)))
        await append(rival, note("t", "t", writer=Writer("w", 1, 1)))
        await rival.fetch("BEGIN")
        await append(rival, note("s", "token", "token", writer=Writer("v", 1, 2)))
        mine = (note("t", "token", writer=Writer("w", 1, 2)), note("s", "token", writer=Writer("w", 1, 2)))
        batch = Judged(judged, *mine)
        nursery.start_soon(batch.run)
        await blocked(watcher, "judged")
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
                    note(stream, n, keys=(Key("k", f"{stream} {n}", b"1"), Key("k", f"{turn} {n} {stream}")))
                    for stream in (*mine[:8], f"new {n}", f"new {turn} {n}")
                ]
                rows = await append(session, *batch)
                assert {row["verdict"] for row in rows} <= {"appended", "repeated_key"}

        async with trio.open_nursery() as nursery:
            for turn, session in enumerate(opened):
                nursery.start_soon(write, session, turn)
