"""A primary and its standby, promoted under load: what is promised with a synchronous one, and what is said
without.

Synchronous: nothing that was acknowledged or shown is lost. Asynchronous: what the standby lacked is gone, and
everybody who had seen it is told so (`Rewound`); nobody is shown two pasts as one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from eventstore import EventStore, Fenced, Observer, Rewound, StoreOptions, StoreUnavailable, Subscription, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions, schema_revision
from eventstore.postgres.asyncpg_trio import open_driver
from eventstore.postgres.db_connection import ReconnectingConnection
from tests.conftest import postgres_folder
from tests.eventstore.faults.load import Load
from tests.eventstore.sample_events import BOUND, is_gapless, names, read_all, sample_append, take, wait_until
from tests.harness.databases import Postgres
from tests.topology.pair import Pair, pair


class RecordingObserver(Observer):
    """What an observer is told of the log's going elsewhere, or back."""

    def __init__(self) -> None:
        self.moves: list[str] = []
        self.rewinds: list[tuple[str, int, int]] = []

    def history_changed(self, why: str) -> None:
        self.moves.append(why)

    def rewound(self, stream: str, seen: int, head: int) -> None:
        self.rewinds.append((stream, seen, head))


def opened(url: str, patience: float = 60.0) -> EventStore:
    options = StoreOptions(call_timeout=patience, safety_poll=0.2, observer=RecordingObserver())
    return EventStore(PostgresBackend(PostgresOptions(url, connect_timeout=2.0, call_timeout=patience)), options)


def told(store: EventStore) -> RecordingObserver:
    observer = store.options.observer
    assert isinstance(observer, RecordingObserver)
    return observer


@pytest.fixture
def synchronous(postgres: Postgres, tmp_path: Path) -> Iterator[Pair]:
    with (
        postgres_folder(tmp_path, "synchronous") as folder,
        pair(folder, postgres.embedded.bin_dir, synchronous=True) as made,
    ):
        yield made


@pytest.fixture
def asynchronous(postgres: Postgres, tmp_path: Path) -> Iterator[Pair]:
    with (
        postgres_folder(tmp_path, "asynchronous") as folder,
        pair(folder, postgres.embedded.bin_dir, synchronous=False) as made,
    ):
        yield made


@pytest.mark.parametrize("more", [5, pytest.param(500, marks=pytest.mark.soak)])
async def test_synchronous_failover_under_load_loses_nothing(synchronous: Pair, more: int) -> None:
    async with (
        opened(synchronous.app_url).open() as writes,
        opened(synchronous.app_url).open() as reads,
        trio.open_nursery() as nursery,
    ):
        load = Load(writes, reads)
        await load.run(nursery)
        await load.grown(more)
        await trio.to_thread.run_sync(synchronous.fail_over)
        await load.grown(more)
        await load.reckon()
        for store in (writes, reads):
            assert told(store).moves == ["timeline 2 after 1"]
            assert told(store).rewinds == []
            assert store.incarnation == 1
        nursery.cancel_scope.cancel()


async def test_synchronous_reader_keeps_its_cursor(synchronous: Pair) -> None:
    """It has been given nothing since it came, so it has to know the event at its cursor all the same."""
    async with opened(synchronous.app_url).open() as store:
        await store.append(sample_append("s", 1, 2, 3))
        with store.subscribe("s", 3, seen=3) as reader:
            assert list(await reader.poll()) == []
            await trio.to_thread.run_sync(synchronous.fail_over)
            await store.append(sample_append("s", 4))
            with trio.fail_after(BOUND):
                assert names(await reader.next()) == ["4"]
        assert told(store).moves == ["timeline 2 after 1"]
        assert told(store).rewinds == []


async def test_synchronous_append_is_invisible_until_the_standby_has_it(synchronous: Pair) -> None:
    """However often it is sent, and whoever gives up waiting for it."""
    receiver = int(synchronous.second.sql("SELECT pid FROM pg_stat_wal_receiver"))
    async with (
        opened(synchronous.app_url, patience=1.5).open() as store,
        opened(synchronous.app_url).open() as other,
    ):
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
        with other.subscribe("s") as reader:
            await take(reader, 1)
            os.kill(receiver, signal.SIGSTOP)
            try:
                for _ in range(2):
                    with pytest.raises(StoreUnavailable):
                        await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))
                    assert list(await reader.poll()) == []
                    assert names(await read_all(store, "s")) == ["1"]
            finally:
                os.kill(receiver, signal.SIGCONT)
            with trio.fail_after(BOUND):
                while True:
                    try:
                        appended = await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))
                        break
                    except StoreUnavailable:
                        pass
            assert appended.first == 2
            assert names(await take(reader, 1)) == ["2"]
        await trio.to_thread.run_sync(synchronous.fail_over)
        assert names(await read_all(other, "s")) == ["1", "2"]


async def rewound_to(reader: Subscription) -> Rewound:
    """What a reader is told that goes on reading."""
    try:
        with trio.fail_after(BOUND):
            while True:
                await reader.next()
    except Rewound as error:
        return error


async def test_asynchronous_failover_reports_lost_events(asynchronous: Pair) -> None:
    async with (
        opened(asynchronous.app_url).open() as store,
        opened(asynchronous.app_url).open() as other,
    ):
        for n in (1, 2, 3):
            await store.append(sample_append("s", n, writer=Writer("w", 1, n)))
        await store.append(sample_append("whole", 1))
        await trio.to_thread.run_sync(asynchronous.caught_up)
        await trio.to_thread.run_sync(asynchronous.cut)
        for n in (4, 5):
            await store.append(sample_append("s", n, writer=Writer("w", 1, n)))
        await store.append(sample_append("new", 1))
        with (
            store.subscribe("s") as here,
            other.subscribe("s") as there,
            other.subscribe("new") as vanished,
            other.subscribe("whole") as kept,
        ):
            for reader, count in ((here, 5), (there, 5), (vanished, 1), (kept, 1)):
                await take(reader, count)
            await trio.to_thread.run_sync(asynchronous.fail_over)
            for reader, head in ((here, 3), (there, 3), (vanished, 0)):
                assert (await rewound_to(reader)).head == head
            # The run that wrote goes on from what is no more: it is fenced, and does not write into the gap.
            with pytest.raises(Fenced):
                await store.append(sample_append("s", 6, writer=Writer("w", 1, 6)))
            await store.append(sample_append("s", "other 4"))
            await store.append(sample_append("whole", 2))
            assert names(await take(kept, 1)) == ["2"]
        for process in (store, other):
            events = await read_all(process, "s")
            assert names(events) == ["1", "2", "3", "other 4"]
            assert is_gapless(events)
            with process.subscribe("s", 3) as again:
                assert names(await take(again, 1)) == ["other 4"]


async def only_the_primary_is_asked(asynchronous: Pair) -> None:
    """A standby answers reads, so nothing looks dead; but it says "nothing new" of what it has not heard yet."""
    standby = asynchronous.second.url("tokentape_app", "tokentape")
    for start in (opened(standby, patience=1.0).open().__aenter__, lambda: schema_revision(standby)):
        with pytest.raises(StoreUnavailable, match="standby"):
            await start()
    first, second = asynchronous.app_url.split("@")[1].split("/")[0].split(",")
    turned = asynchronous.app_url.replace(f"{first},{second}", f"{second},{first}")
    async with open_driver() as driver:
        session = ReconnectingConnection(driver, turned, "test")
        assert (await session.fetch("SELECT pg_is_in_recovery()"))[0][0] is False
        session.disconnect()


async def test_standby_and_returned_old_primary_are_refused(asynchronous: Pair) -> None:
    """That one does not know that it was replaced, and it is the first in the URL."""
    await only_the_primary_is_asked(asynchronous)
    async with opened(asynchronous.app_url).open() as store:
        await store.append(sample_append("s", 1))
        await trio.to_thread.run_sync(asynchronous.caught_up)
        await trio.to_thread.run_sync(asynchronous.fail_over)
        await store.append(sample_append("s", 2))
        await trio.to_thread.run_sync(asynchronous.first.start)
        kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'tokentape_app'"
        for n in (3, 4):
            await trio.to_thread.run_sync(asynchronous.second.sql, kill)
            await store.append(sample_append("s", n))
            assert (await store.head("s")).position == n

        async def shows_life_there() -> bool:
            life = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'eventstore liveness'"
            return await trio.to_thread.run_sync(asynchronous.second.sql, life) == "1"

        await wait_until(shows_life_there)
        assert names(await read_all(store, "s")) == ["1", "2", "3", "4"]
        assert (
            await trio.to_thread.run_sync(
                asynchronous.first.sql, "SELECT count(*) FROM eventstore.events", "tokentape"
            )
            == "1"
        )
