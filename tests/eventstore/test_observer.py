"""What a store tells its observer, and the figures it shows: each moves with what it counts, and nothing else."""

from collections.abc import AsyncIterator

import pytest
import trio

from eventstore import Append, EventStore, NewEvent, Observer, StoreOptions, StoreUnavailable, Writer
from eventstore.batcher import Batcher, Limits
from eventstore.db_retry import call_once, retry_within
from eventstore.memory_backend import MemoryBackend
from eventstore.observer import FORGET_SECONDS, Health
from tests.eventstore.sample_events import note, until


class Told(Observer):
    """Keeps all it is told."""

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
def told() -> Told:
    return Told()


@pytest.fixture
def log() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def store(
    told: Told, log: MemoryBackend, autojump_clock: trio.testing.MockClock
) -> AsyncIterator[EventStore]:
    options = StoreOptions(call_timeout=5.0, observer=told)
    async with EventStore(log.process(), options).open() as store:
        yield store


async def test_a_commit_is_told_with_what_was_in_it(store: EventStore, told: Told) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(store.append, note(f"s{n}", "a", "b"))
    assert sum(appends for appends, _, _ in told.commits) == 5
    assert sum(events for _, events, _ in told.commits) == 10
    assert len(told.commits) < 5, "they waited together"


async def test_an_outage_is_told_once_and_its_end_too(store: EventStore, told: Told, log: MemoryBackend) -> None:
    """However many ask meanwhile."""
    await trio.testing.wait_all_tasks_blocked()  # the store has just been opened: its tasks are on their way
    log.available = False
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(store.append, note(f"s{n}", "a"))
        nursery.start_soon(store.find_key, "a", "b")
        await trio.sleep(2)
        assert [what for what, *_ in told.outages] == ["away"]
        shown = store.stats()
        assert (shown.up, shown.outages) == (False, 1)
        assert shown.away_seconds == pytest.approx(2.0, abs=0.01)
        assert shown.quiet_seconds == 0.0, "it has never answered yet"
        assert shown.waiting["appends"] == 0, "they are in the batch that is sent again"
        assert shown.retries["append"] > 2
        log.available = True
    assert [what for what, *_ in told.outages] == ["away", "back"]
    _, seconds, failures = told.outages[1]
    shown = store.stats()
    assert failures == sum(shown.failures.values()) == shown.failures["away"]
    assert seconds == shown.away_seconds
    assert 2.0 <= shown.away_seconds < 3.0
    assert shown.up
    assert shown.repeated == 0
    assert max(seconds for _, _, seconds in told.commits) >= 2.0, "a commit's time includes what it waited"


async def test_who_gives_up_is_counted(store: EventStore, log: MemoryBackend) -> None:
    log.available = False
    with pytest.raises(StoreUnavailable):
        await store.append(note("s", "a"))
    with pytest.raises(StoreUnavailable):
        await store.alive()
    assert not store.stats().up


async def test_appends_that_wait_are_shown(store: EventStore, log: MemoryBackend) -> None:
    """Those behind the batch that is under way."""
    log.available = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append, note("s", 0))
        await trio.sleep(0.1)
        for n in range(1, 8):
            nursery.start_soon(store.append, note("s", n))
        await trio.sleep(0.1)
        assert store.stats().waiting == {"appends": 7, "reads": 0, "heads": 0}
        log.available = True
    assert store.stats().waiting["appends"] == 0


async def test_a_repeated_append_is_counted(store: EventStore) -> None:
    first = Append("s", (NewEvent("noted", "{}"),), writer=Writer("w", 1, 1))
    await store.append(first)
    assert store.stats().repeated == 0
    assert (await store.append(first)).repeated
    assert store.stats().repeated == 1


async def test_looks_are_hits_or_misses(store: EventStore) -> None:
    """The tail answers what was appended here; who stands at the head asks the database."""
    await store.append(note("s", 1, 2, 3))
    before = store.stats()
    with store.subscribe("s") as subscription:
        assert store.stats().readers == 1
        assert len(await subscription.poll()) == 3
        assert store.stats().tail_hits == before.tail_hits + 1
        assert await subscription.poll() == []
        assert store.stats().tail_misses == before.tail_misses + 1
    assert store.stats().readers == 0
    assert store.stats().tail_bytes > 0


async def test_who_is_turned_away_is_counted() -> None:
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


async def test_one_call_that_fails_is_not_made_good_by_anothers_answer(
    told: Told, autojump_clock: trio.testing.MockClock
) -> None:
    """A full disk fails appends and answers reads: that is one outage, not one a second."""
    health = Health(told)
    for _ in range(30):
        health.failed("append", "lost", "disk full")
        health.answered("read")
        await trio.sleep(1)
    assert told.outages == [("away", "disk full")]
    health.answered("append")
    assert told.outages[1:] == [("back", pytest.approx(30.0), 30)]


async def test_a_call_that_nobody_makes_any_more_is_forgotten(
    told: Told, autojump_clock: trio.testing.MockClock
) -> None:
    """Its askers gave up; others are answered: the database is there."""
    health = Health(told)
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


async def test_no_answer_in_time_is_a_failure_of_its_own_kind(autojump_clock: trio.testing.MockClock) -> None:
    health = Health(Observer())
    with pytest.raises(StoreUnavailable):
        await retry_within(trio.sleep_forever, 2.0, "read", health)
    assert health.failures == {"timeout": 1}

    async def gone() -> None:
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        await call_once(gone, "alive", health)
    assert health.failures == {"timeout": 1, "away": 1}


async def test_an_idle_store_notices_by_its_heads(store: EventStore, told: Told, log: MemoryBackend) -> None:
    """Somebody sleeps on a stream: the safety poll asks, and hears nothing."""
    await store.append(note("s", 1))
    with store.subscribe("s", 1):
        log.available = False

        async def gone() -> bool:
            return not store.stats().up

        await until(gone)
        log.available = True

        async def back() -> bool:
            return store.stats().up

        await until(back)
    assert [what for what, *_ in told.outages] == ["away", "back"]
