"""What a store reports to its observer, and its statistics: each figure counts what its name says, and
nothing else.
"""

from collections.abc import AsyncIterator

import pytest
import trio

from eventstore import Append, EventStore, NewEvent, Observer, StoreOptions, StoreUnavailable, Writer
from eventstore.batcher import Batcher, Limits
from eventstore.db_retry import call_once, retry_within
from eventstore.memory_backend import MemoryBackend
from eventstore.observer import FORGET_SECONDS, Health
from tests.eventstore.sample_events import sample_append, wait_until


class RecordingObserver(Observer):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.commits: list[tuple[int, int, float]] = []
        self.outages: list[tuple[object, ...]] = []

    def committed(self, appends: int, events: int, seconds: float) -> None:
        self.commits.append((appends, events, seconds))

    def unavailable(self, why: str) -> None:
        self.outages.append(("away", why))

    def available(self, seconds: float, failures: int) -> None:
        self.outages.append(("back", seconds, failures))


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def log() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def store(observer: RecordingObserver, log: MemoryBackend) -> AsyncIterator[EventStore]:
    """A store in real time, unless the test itself takes `autojump_clock`.

    Pytest-trio ignores that of a fixture.
    """
    options = StoreOptions(call_timeout=5.0, observer=observer)
    async with EventStore(log.process(), options).open() as store:
        yield store


async def test_commit_is_reported_with_its_counts(store: EventStore, observer: RecordingObserver) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(store.append, sample_append(f"s{n}", "a", "b"))
    assert sum(appends for appends, _, _ in observer.commits) == 5
    assert sum(events for _, events, _ in observer.commits) == 10
    assert len(observer.commits) < 5, "they waited together"


async def test_outage_and_its_end_are_reported_once(
    autojump_clock: trio.testing.MockClock, store: EventStore, observer: RecordingObserver, log: MemoryBackend
) -> None:
    """However many calls are made meanwhile."""
    await trio.testing.wait_all_tasks_blocked()  # the store has just been opened: its tasks are on their way
    log.available = False
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(store.append, sample_append(f"s{n}", "a"))
        nursery.start_soon(store.find_key, "a", "b")
        await trio.sleep(2)
        assert [what for what, *_ in observer.outages] == ["away"]
        shown = store.stats()
        assert (shown.up, shown.outages) == (False, 1)
        assert shown.away_seconds == pytest.approx(2.0, abs=0.01)
        assert shown.quiet_seconds == 0.0, "it has never answered yet"
        assert shown.waiting["appends"] == 0, "they are in the batch that is sent again"
        assert shown.retries["append"] > 2
        log.available = True
    assert [what for what, *_ in observer.outages] == ["away", "back"]
    _, seconds, failures = observer.outages[1]
    shown = store.stats()
    assert failures == sum(shown.failures.values()) == shown.failures["away"]
    assert seconds == shown.away_seconds
    assert 2.0 <= shown.away_seconds < 3.0
    assert shown.up
    assert shown.repeated == 0
    assert max(seconds for _, _, seconds in observer.commits) >= 2.0, "a commit's time includes what it waited"


async def test_timed_out_calls_are_counted(
    autojump_clock: trio.testing.MockClock, store: EventStore, log: MemoryBackend
) -> None:
    log.available = False
    with pytest.raises(StoreUnavailable):
        await store.append(sample_append("s", "a"))
    with pytest.raises(StoreUnavailable):
        await store.alive()
    assert not store.stats().up


async def test_waiting_appends_are_counted(
    autojump_clock: trio.testing.MockClock, store: EventStore, log: MemoryBackend
) -> None:
    """Those behind the batch that is under way."""
    log.available = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append, sample_append("s", 0))
        await trio.sleep(0.1)
        for n in range(1, 8):
            nursery.start_soon(store.append, sample_append("s", n))
        await trio.sleep(0.1)
        assert store.stats().waiting == {"appends": 7, "reads": 0, "heads": 0}
        log.available = True
    assert store.stats().waiting["appends"] == 0


async def test_repeated_appends_are_counted(store: EventStore) -> None:
    first = Append("s", (NewEvent("noted", "{}"),), writer=Writer("w", 1, 1))
    await store.append(first)
    assert store.stats().repeated == 0
    assert (await store.append(first)).repeated
    assert store.stats().repeated == 1


async def test_tail_hits_and_misses_are_counted(store: EventStore) -> None:
    """The tail answers what was appended here; a reader at the head asks the database."""
    await store.append(sample_append("s", 1, 2, 3))
    before = store.stats()
    with store.subscribe("s") as subscription:
        assert store.stats().readers == 1
        assert len(await subscription.poll()) == 3
        assert store.stats().tail_hits == before.tail_hits + 1
        assert await subscription.poll() == []
        assert store.stats().tail_misses == before.tail_misses + 1
    assert store.stats().readers == 0
    assert store.stats().tail_bytes > 0


async def test_refused_requests_are_counted() -> None:
    async def never(_: object) -> list[str]:
        return await trio.sleep_forever()

    batcher: Batcher[int, str] = Batcher(never, Limits(requests=1, weight=1, waiting=2))
    async with trio.open_nursery() as nursery:
        for n in range(2):
            nursery.start_soon(batcher.ask, n, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreUnavailable):
            await batcher.ask(3, 60.0)
        assert batcher.load == (2, 1)
        nursery.cancel_scope.cancel()


async def test_one_kind_of_call_failing_is_one_outage(
    observer: RecordingObserver, autojump_clock: trio.testing.MockClock
) -> None:
    """A full disk fails appends and answers reads: that is one outage, not one every second."""
    health = Health(observer)
    for _ in range(30):
        health.failed("append", "lost", "disk full")
        health.answered("read")
        await trio.sleep(1)
    assert observer.outages == [("away", "disk full")]
    health.answered("append")
    assert observer.outages[1:] == [("back", pytest.approx(30.0), 30)]


async def test_old_failure_of_an_unused_call_is_forgotten(
    observer: RecordingObserver, autojump_clock: trio.testing.MockClock
) -> None:
    """Its callers gave up, and others are answered: the database is there."""
    health = Health(observer)
    health.failed("read", "lost", "gone")
    await trio.sleep(FORGET_SECONDS / 2)
    health.answered("append")
    assert health.up is False
    await trio.sleep(FORGET_SECONDS / 2 + 0.1)
    assert health.up is False, "only an answer says that it is there"
    health.answered("append")
    shown = [health.up, health.quiet_seconds]
    await trio.sleep(3)
    shown.append(health.quiet_seconds)
    assert shown == [True, pytest.approx(0.0, abs=0.01), pytest.approx(3.0, abs=0.01)]


async def test_timeout_is_its_own_kind_of_failure(autojump_clock: trio.testing.MockClock) -> None:
    health = Health(Observer())
    with pytest.raises(StoreUnavailable):
        await retry_within(trio.sleep_forever, 2.0, "read", health)
    assert health.failures == {"timeout": 1}

    async def gone() -> None:
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        await call_once(gone, "alive", health)
    assert health.failures == {"timeout": 1, "away": 1}


async def test_idle_store_notices_an_outage_by_its_safety_poll(
    autojump_clock: trio.testing.MockClock, store: EventStore, observer: RecordingObserver, log: MemoryBackend
) -> None:
    """A reader sleeps on a stream: the safety poll asks for its head, and gets no answer."""
    await store.append(sample_append("s", 1))
    with store.subscribe("s", 1):
        log.available = False

        async def gone() -> bool:
            return not store.stats().up

        await wait_until(gone)
        log.available = True

        async def back() -> bool:
            return store.stats().up

        await wait_until(back)
    assert [what for what, *_ in observer.outages] == ["away", "back"]
