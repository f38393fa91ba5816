"""The store in virtual time, over the log in memory: the safety poll, a database away, reads that are shared."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore import Erased, EventStore, StoreOptions, StoreUnavailable, Writer
from eventstore.batcher import Limits
from eventstore.memory_backend import MemoryBackend
from tests.eventstore.sample_events import names, note, whole

OPTIONS = StoreOptions(call_timeout=30.0, safety_poll=2.0, append_limits=Limits(requests=3, weight=10, waiting=5))


@pytest.fixture
def shared() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def store(shared: MemoryBackend) -> AsyncIterator[EventStore]:
    async with EventStore(shared.process(), OPTIONS).open() as store:
        yield store


@pytest.fixture
async def silent(shared: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventStore]:
    """Another process whose every announcement gets lost."""
    log = shared.process()
    monkeypatch.setattr(log, "notify_newer", lambda streams: None)
    monkeypatch.setattr(log, "notify_closed", lambda stream, writer: None)
    async with EventStore(log, OPTIONS).open() as store:
        yield store


async def test_the_safety_poll_finds_what_no_hint_told(
    store: EventStore, silent: EventStore, autojump_clock: MockClock
) -> None:
    await store.append(note("s", 0))
    await store.append(note("t", 0))
    with store.subscribe("s") as reader, store.subscribe("t", 1) as other:
        await reader.next()
        assert list(await reader.poll()) == list(await other.poll()) == []
        for n in range(1, 5):
            await silent.append(note("s", n))
            began = trio.current_time()
            assert names(await reader.next()) == [str(n)]
            assert 0 < trio.current_time() - began <= OPTIONS.safety_poll + 0.1
        with trio.move_on_after(60) as nothing_new:
            await other.next()
        assert nothing_new.cancelled_caught


async def test_the_safety_poll_finds_what_was_erased(
    store: EventStore, silent: EventStore, autojump_clock: MockClock
) -> None:
    await store.append(note("s", 0))
    with store.subscribe("s") as reader:
        await reader.next()
        assert list(await reader.poll()) == []
        await silent.erase_streams("", -1.0)
        began = trio.current_time()
        with trio.fail_after(60), pytest.raises(Erased):
            await reader.next()
        assert 0 < trio.current_time() - began <= OPTIONS.safety_poll + 0.1


async def test_the_safety_poll_asks_only_for_streams_that_are_slept_on(
    store: EventStore, shared: MemoryBackend, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    asked: list[Sequence[str]] = []
    heads = store._backend.heads

    async def watch(streams: Sequence[str]) -> Any:
        asked.append(sorted(streams))
        return await heads(streams)

    monkeypatch.setattr(store._backend, "heads", watch)
    for stream in "abc":
        await store.append(note(stream, 1))
    await trio.sleep(10)
    assert asked == []
    with store.subscribe("a", 1), store.subscribe("a", 1), store.subscribe("b", 1):
        await trio.sleep(5)
    assert asked == [["a", "b"]] * len(asked)
    assert len(asked) in (2, 3)


async def test_the_safety_poll_survives_a_database_that_is_away(
    store: EventStore, silent: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    await store.append(note("s", 0))
    with store.subscribe("s", 1) as reader:
        assert list(await reader.poll()) == []
        shared.available = False
        await trio.sleep(10)
        shared.available = True
        await silent.append(note("s", 1))
        with trio.fail_after(OPTIONS.safety_poll + 0.1):
            assert names(await reader.next()) == ["1"]


async def test_away_for_a_while_appends_and_reads_wait(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    await store.append(note("s", 1))
    done: list[float] = []

    async def act(n: int) -> None:
        await store.append(note("s", n, writer=Writer("w", 1, n)))
        await store.head("s")
        await store.writer("s", "w")
        await store.alive()
        done.append(trio.current_time() - began)

    shared.available = False
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(act, 1)
        await trio.sleep(20)
        assert done == []
        shared.available = True
    assert 20 <= done[0] <= 21


async def test_away_for_too_long(store: EventStore, shared: MemoryBackend, autojump_clock: MockClock) -> None:
    await store.append(note("s", 1))
    shared.available = False
    for call in (
        lambda: store.append(note("s", 2)),
        lambda: store.read("s"),
        lambda: store.head("s"),
        lambda: store.find_key("k", "k"),
        lambda: store.trim("s", 1),
    ):
        began = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await call()
        assert OPTIONS.call_timeout - 1 <= trio.current_time() - began <= OPTIONS.call_timeout
    shared.available = True
    assert names(await whole(store, "s")) == ["1"]
    assert (await store.append(note("s", 2))).first == 2


async def test_too_many_waiting_are_refused_at_once(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    shared.available = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append, note("s", 0))
        await wait_all_tasks_blocked()
        for n in range(1, 6):
            nursery.start_soon(store.append, note(f"s{n}", n))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(StoreUnavailable, match="5 requests wait"):
            await store.append(note("one too many", 1))
        assert trio.current_time() == began
        shared.available = True
    assert len(await store.list_streams("", None, 100)) == 6


async def test_readers_at_one_place_share_one_read(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    await store.append(note("s", 1, 2, 3))
    questions: list[int] = []
    read = store._backend.read

    async def watch(queries: Any) -> Any:
        questions.append(len(queries))
        await trio.sleep(1)
        return await read(queries)

    monkeypatch.setattr(store._backend, "read", watch)
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(store.read, "s", 1)
    assert questions == [1]


async def test_at_its_end_nothing_is_under_way(shared: MemoryBackend, autojump_clock: MockClock) -> None:
    answered: list[str] = []

    async def ask(store: EventStore) -> None:
        with pytest.raises(StoreUnavailable):
            await store.append(note("s", 1))
        answered.append("not known")

    async with trio.open_nursery() as nursery:
        store = EventStore(shared.process(), OPTIONS)
        async with store.open():
            shared.available = False
            nursery.start_soon(ask, store)
            await wait_all_tasks_blocked()
        shared.available = True
    assert answered == ["not known"]
    assert shared.streams == {}
    assert shared.living == {}


async def test_many_who_ask_for_one_head_ask_once(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row for all of them, of a batch that leaves after their asking; other streams' heads come along."""
    rows: list[list[str]] = []
    heads = store._backend.heads

    async def noted(streams: Sequence[str]) -> Any:
        rows.append(list(streams))
        return await heads(streams)

    monkeypatch.setattr(store._backend, "heads", noted)
    await store.append(note("s", 0))
    await store.append(note("t", 0))
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(store.head, "s")
            nursery.start_soon(store.head, "t")
    assert len(rows) <= 2
    assert all(len(batch) == len(set(batch)) for batch in rows)
    assert set(rows[-1]) == {"s", "t"}


async def test_a_look_takes_from_the_tail_what_stands_there(
    store: EventStore, silent: EventStore, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But whether there is more, and whether there is anything, the primary says each time."""
    asked: list[str] = []
    log = store._backend
    heads, read = log.heads, log.read

    async def heads_noted(streams: Sequence[str]) -> Any:
        asked.append("heads")
        return await heads(streams)

    async def read_noted(queries: Any) -> Any:
        asked.append("read")
        return await read(queries)

    monkeypatch.setattr(log, "heads", heads_noted)
    monkeypatch.setattr(log, "read", read_noted)

    async def looked(after: int, limit: int = 10) -> tuple[list[str], int, list[str]]:
        asked.clear()
        found = await store.read_cached("s", after, limit)
        return names(found.events), found.head, list(asked)

    await store.append(note("s", 0, 1, 2))
    assert await looked(0) == (["0", "1", "2"], 3, ["heads"])
    assert await looked(0, 2) == (["0", "1"], 3, ["heads"])
    assert await looked(3) == ([], 3, ["read"])
    assert names(store.recent("s", 1, 10)) == ["1", "2"]
    await silent.append(note("s", 3))  # nobody here has heard of it
    assert await looked(1) == (["1", "2", "3"], 4, ["heads", "read"])
    assert await looked(1) == (["1", "2", "3"], 4, ["heads"]), "that read has brought it into the tail"
    await silent.erase_streams("", -1.0)
    with pytest.raises(Erased):
        await store.read_cached("s", 1, 10)
