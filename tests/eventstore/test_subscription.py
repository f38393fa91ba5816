"""One subscription in virtual time: arm, look, sleep; and an append at every moment in between.

There is no safety poll here: a reader that misses its wake-up sleeps for ever, and the test times out.
"""

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from eventstore import Event, StoreUnavailable, Subscription
from tests.eventstore.subscribed_stream import HookedStream


async def take_positions(reader: Subscription, upto: int) -> list[int]:
    """The positions that come up to `upto`; fails if the reader sleeps on."""
    got: list[int] = []
    with trio.fail_after(60):
        while reader.position < upto:
            got += [event.position for event in await reader.next()]
    return got


async def is_asleep(reader: Subscription) -> bool:
    with trio.move_on_after(60):
        await reader.next()
        return False
    return True


async def test_existing_and_new_events_are_read(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(3)
    with log.subscribe() as reader:
        assert await take_positions(reader, 3) == [1, 2, 3]
        assert (reader.position, reader.head) == (3, 3)
        assert await is_asleep(reader)
        log.own(2)
        assert await take_positions(reader, 5) == [4, 5]
        log.foreign(2)
        assert await is_asleep(reader)
        log.hint()
        assert await take_positions(reader, 7) == [6, 7]
    assert len(log.wakeups) == 0


@pytest.mark.parametrize("when", ["before_read", "after_read"])
@pytest.mark.parametrize("who", ["own", "foreign"])
async def test_append_between_look_and_sleep_is_not_missed(when: str, who: str, autojump_clock: MockClock) -> None:
    """The read has its answer, and the reader is not asleep yet."""
    log = HookedStream()
    log.foreign(1)

    def append() -> None:
        log.own() if who == "own" else log.foreign()
        log.hint()

    with log.subscribe() as reader:
        assert await take_positions(reader, 1) == [1]
        for position in range(2, 6):
            log.hint()
            setattr(log, when, append)
            assert await take_positions(reader, position) == [position]


async def test_append_during_an_empty_read_is_not_missed(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(1)
    with log.subscribe(1) as reader:
        log.after_read = log.own
        assert list(await reader.poll()) == []
        assert await take_positions(reader, 2) == [2]


async def test_empty_poll_sets_the_head(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(4)
    with log.subscribe(4) as reader:
        assert reader.head == 0
        assert list(await reader.poll()) == []
        assert reader.head == 4
        assert await is_asleep(reader)


async def test_pages_follow_each_other(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(25)
    with log.subscribe(limit=10) as reader:
        assert [len(await reader.next()) for _ in range(3)] == [10, 10, 5]
        assert await is_asleep(reader)
        log.own(25)
        assert [len(await reader.next()) for _ in range(3)] == [10, 10, 5]


async def test_readers_at_the_head_read_only_the_tail(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.own()
    with log.subscribe() as reader:
        await take_positions(reader, 1)
        assert await is_asleep(reader)
        log.reads.clear()
        for _ in range(50):
            log.own()
            await take_positions(reader, log.newest)
        assert log.reads == []


async def test_partial_tail_hides_no_later_events(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(5)
    with log.subscribe(limit=5) as reader:
        log.own(3)  # 6 to 8 are in the tail
        log.foreign(2)  # 9 and 10 are not, and no bell rings for them: this reader hung its own up before
        assert await take_positions(reader, 10) == list(range(1, 11))


@pytest.mark.parametrize("order", ["own first", "hint first"])
async def test_two_wakeups_before_one_look(order: str, autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(1)
    with log.subscribe() as reader:
        await take_positions(reader, 1)
        assert await is_asleep(reader)
        log.own()
        log.foreign()
        log.hint()
        if order == "hint first":
            log.wakeups.wake(["s"], in_tail=True)
        assert await take_positions(reader, 3) == [2, 3]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ZeroDivisionError()])
async def test_reader_looks_again_after_an_error(error: Exception, autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(1)
    with log.subscribe() as reader:
        await take_positions(reader, 1)
        assert await is_asleep(reader)
        log.foreign()
        log.hint()
        log.error = error
        with pytest.raises(type(error)):
            await reader.next()
        assert await take_positions(reader, 2) == [2]


async def test_reader_looks_again_after_a_cancelled_read(autojump_clock: MockClock) -> None:
    log = HookedStream()
    log.foreign(1)
    with log.subscribe() as reader:
        await take_positions(reader, 1)
        assert await is_asleep(reader)
        log.foreign()
        log.hint()
        with trio.move_on_after(0.0005) as cut:
            await reader.next()
        assert cut.cancelled_caught
        assert reader.position == 1
        assert await take_positions(reader, 2) == [2]


acts = st.sampled_from(["own", "own", "foreign", "hint", "look", "look", "settle", "cut", "drop"])


@given(
    st.lists(
        st.tuples(acts, st.sampled_from(["now", "before_read", "after_read"]), st.integers(1, 4)), max_size=30
    ),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_any_order_of_appends_and_wakeups(plan: list[tuple[str, str, int]], limit: int, after: int) -> None:
    """Once every foreign append was announced, the reader gets to the head without another wake-up."""
    log = HookedStream()
    got: list[Event] = []

    def do(act: str, count: int) -> None:
        if act == "own":
            log.own(count)
        elif act == "foreign":
            log.foreign(count)
        elif act == "hint":
            log.hint()
        elif act == "drop":
            log.tails.drop("s")

    async def main() -> None:
        log.foreign(3)
        with log.subscribe(after, limit) as reader:
            for act, when, count in plan:
                if act == "look":
                    got.extend(await reader.poll())
                elif act in ("settle", "cut"):
                    with trio.move_on_after(60 if act == "settle" else 0.0005):
                        while True:
                            got.extend(await reader.next())
                elif when == "now":
                    do(act, count)
                else:
                    setattr(log, when, later(do, act, count))
            log.let_happen()
            if log.untold:
                log.hint()
            with trio.fail_after(600):
                while reader.position < log.newest:
                    got.extend(await reader.next())

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert got == log.events[after:]


def later(do: Callable[[str, int], None], act: str, count: int) -> Callable[[], None]:
    return lambda: do(act, count)
