"""The store in virtual time over the in-memory log: the safety poll, an unavailable database, and shared
reads.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore import Erased, EventStore, StoreOptions, StoreUnavailable, Writer
from eventstore.batcher import Limits
from eventstore.memory_backend import MemoryBackend
from tests.eventstore.sample_events import names, read_all, sample_append

OPTIONS = StoreOptions(call_timeout=30.0, safety_poll=2.0, append_limits=Limits(requests=3, weight=10, waiting=5))


@pytest.fixture
def shared() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def store(shared: MemoryBackend) -> AsyncIterator[EventStore]:
    async with EventStore(shared.process(), OPTIONS).open() as store:
        yield store


@pytest.fixture
async def silent_process(shared: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventStore]:
    """Another process whose notifications are all lost."""
    log = shared.process()
    monkeypatch.setattr(log, "notify_newer", lambda streams: None)
    monkeypatch.setattr(log, "notify_closed", lambda stream, writer: None)
    async with EventStore(log, OPTIONS).open() as store:
        yield store


async def test_safety_poll_finds_unannounced_events(
    store: EventStore, silent_process: EventStore, autojump_clock: MockClock
) -> None:
    await store.append(sample_append("s", 0))
    await store.append(sample_append("t", 0))
    with store.subscribe("s") as reader, store.subscribe("t", 1) as other:
        await reader.next()
        assert list(await reader.poll()) == list(await other.poll()) == []
        for n in range(1, 5):
            await silent_process.append(sample_append("s", n))
            began = trio.current_time()
            assert names(await reader.next()) == [str(n)]
            assert 0 < trio.current_time() - began <= OPTIONS.safety_poll + 0.1
        with trio.move_on_after(60) as nothing_new:
            await other.next()
        assert nothing_new.cancelled_caught


async def test_safety_poll_finds_erased_streams(
    store: EventStore, silent_process: EventStore, autojump_clock: MockClock
) -> None:
    await store.append(sample_append("s", 0))
    with store.subscribe("s") as reader:
        await reader.next()
        assert list(await reader.poll()) == []
        await silent_process.erase_streams("", -1.0)
        began = trio.current_time()
        with trio.fail_after(60), pytest.raises(Erased):
            await reader.next()
        assert 0 < trio.current_time() - began <= OPTIONS.safety_poll + 0.1


async def test_safety_poll_asks_only_for_waiting_streams(
    store: EventStore, shared: MemoryBackend, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    asked: list[Sequence[str]] = []
    heads = store._backend.heads

    async def watch(streams: Sequence[str]) -> Any:
        asked.append(sorted(streams))
        return await heads(streams)

    monkeypatch.setattr(store._backend, "heads", watch)
    for stream in "abc":
        await store.append(sample_append(stream, 1))
    await trio.sleep(10)
    assert asked == []
    with store.subscribe("a", 1), store.subscribe("a", 1), store.subscribe("b", 1):
        await trio.sleep(5)
    assert asked == [["a", "b"]] * len(asked)
    assert len(asked) in (2, 3)


async def test_safety_poll_survives_an_outage(
    store: EventStore, silent_process: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    await store.append(sample_append("s", 0))
    with store.subscribe("s", 1) as reader:
        assert list(await reader.poll()) == []
        shared.available = False
        await trio.sleep(10)
        shared.available = True
        await silent_process.append(sample_append("s", 1))
        with trio.fail_after(OPTIONS.safety_poll + 0.1):
            assert names(await reader.next()) == ["1"]


async def test_calls_wait_out_a_short_outage(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    await store.append(sample_append("s", 1))
    done: list[float] = []

    async def act(n: int) -> None:
        await store.append(sample_append("s", n, writer=Writer("w", 1, n)))
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


async def test_calls_fail_after_a_long_outage(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    await store.append(sample_append("s", 1))
    shared.available = False
    for call in (
        lambda: store.append(sample_append("s", 2)),
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
    assert names(await read_all(store, "s")) == ["1"]
    assert (await store.append(sample_append("s", 2))).first == 2


async def test_calls_above_the_limit_are_refused_at_once(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock
) -> None:
    shared.available = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append, sample_append("s", 0))
        await wait_all_tasks_blocked()
        for n in range(1, 6):
            nursery.start_soon(store.append, sample_append(f"s{n}", n))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(StoreUnavailable, match="5 requests wait"):
            await store.append(sample_append("one too many", 1))
        assert trio.current_time() == began
        shared.available = True
    assert len(await store.list_streams("", None, 100)) == 6


async def test_readers_at_one_position_share_one_read(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    await store.append(sample_append("s", 1, 2, 3))
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


async def test_closing_ends_all_calls(shared: MemoryBackend, autojump_clock: MockClock) -> None:
    answered: list[str] = []

    async def ask(store: EventStore) -> None:
        with pytest.raises(StoreUnavailable):
            await store.append(sample_append("s", 1))
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


async def test_concurrent_head_calls_share_one_query(
    store: EventStore, shared: MemoryBackend, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row for all of them, in a batch that leaves after their calls; other streams' heads come along."""
    rows: list[list[str]] = []
    heads = store._backend.heads

    async def sample_event(streams: Sequence[str]) -> Any:
        rows.append(list(streams))
        return await heads(streams)

    monkeypatch.setattr(store._backend, "heads", sample_event)
    await store.append(sample_append("s", 0))
    await store.append(sample_append("t", 0))
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(store.head, "s")
            nursery.start_soon(store.head, "t")
    assert len(rows) <= 2
    assert all(len(batch) == len(set(batch)) for batch in rows)
    assert set(rows[-1]) == {"s", "t"}


async def test_cached_read_takes_events_from_the_tail(
    store: EventStore, silent_process: EventStore, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is more, and whether there is anything, the primary answers each time."""
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

    await store.append(sample_append("s", 0, 1, 2))
    assert await looked(0) == (["0", "1", "2"], 3, ["heads"])
    assert await looked(0, 2) == (["0", "1"], 3, ["heads"])
    assert await looked(3) == ([], 3, ["read"])
    assert names(store.recent("s", 1, 10)) == ["1", "2"]
    await silent_process.append(sample_append("s", 3))  # nobody here has heard of it
    assert await looked(1) == (["1", "2", "3"], 4, ["heads", "read"])
    assert await looked(1) == (["1", "2", "3"], 4, ["heads"]), "that read has brought it into the tail"
    await silent_process.erase_streams("", -1.0)
    with pytest.raises(Erased):
        await store.read_cached("s", 1, 10)
