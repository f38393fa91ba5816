"""One subscription in virtual time: arm, look, sleep; and an append at every moment in between.

There is no safety poll here: a reader that misses its wake-up sleeps for ever, and the test's minute is over.
"""

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from eventstore import Event, StoreUnavailable, Subscription
from tests.eventstore.subscribed_stream import DeskLog


async def take(reader: Subscription, upto: int) -> list[int]:
    """The positions that come, until `upto`; fails where the reader sleeps on."""
    got: list[int] = []
    with trio.fail_after(60):
        while reader.position < upto:
            got += [event.position for event in await reader.next()]
    return got


async def sleeps(reader: Subscription) -> bool:
    with trio.move_on_after(60):
        await reader.next()
        return False
    return True


async def test_what_is_there_and_what_comes(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(3)
    with log.subscribe() as reader:
        assert await take(reader, 3) == [1, 2, 3]
        assert (reader.position, reader.head) == (3, 3)
        assert await sleeps(reader)
        log.own(2)
        assert await take(reader, 5) == [4, 5]
        log.foreign(2)
        assert await sleeps(reader)
        log.hint()
        assert await take(reader, 7) == [6, 7]
    assert len(log.wakeups) == 0


@pytest.mark.parametrize("when", ["before_read", "after_read"])
@pytest.mark.parametrize("who", ["own", "foreign"])
async def test_an_append_between_look_and_sleep(when: str, who: str, autojump_clock: MockClock) -> None:
    """The barrier: the read has its answer, the reader has not lain down yet."""
    log = DeskLog()
    log.foreign(1)

    def append() -> None:
        log.own() if who == "own" else log.foreign()
        log.hint()

    with log.subscribe() as reader:
        assert await take(reader, 1) == [1]
        for position in range(2, 6):
            log.hint()
            setattr(log, when, append)
            assert await take(reader, position) == [position]


async def test_a_read_that_finds_nothing_still_hears_what_came_meanwhile(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(1)
    with log.subscribe(1) as reader:
        log.after_read = log.own
        assert list(await reader.poll()) == []
        assert await take(reader, 2) == [2]


async def test_a_look_that_finds_nothing_says_so(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(4)
    with log.subscribe(4) as reader:
        assert reader.head == 0
        assert list(await reader.poll()) == []
        assert reader.head == 4
        assert await sleeps(reader)


async def test_pages_follow_each_other(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(25)
    with log.subscribe(limit=10) as reader:
        assert [len(await reader.next()) for _ in range(3)] == [10, 10, 5]
        assert await sleeps(reader)
        log.own(25)
        assert [len(await reader.next()) for _ in range(3)] == [10, 10, 5]


async def test_readers_at_the_head_read_nothing_but_the_tail(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.own()
    with log.subscribe() as reader:
        await take(reader, 1)
        assert await sleeps(reader)
        log.reads.clear()
        for _ in range(50):
            log.own()
            await take(reader, log.newest)
        assert log.reads == []


async def test_a_tail_that_holds_a_part_hides_nothing_behind_it(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(5)
    with log.subscribe(limit=5) as reader:
        log.own(3)  # 6 to 8 are in the tail
        log.foreign(2)  # 9 and 10 are not, and no bell rings for them: this reader hung its own up before
        assert await take(reader, 10) == list(range(1, 11))


@pytest.mark.parametrize("order", ["own first", "hint first"])
async def test_two_rings_before_one_look(order: str, autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(1)
    with log.subscribe() as reader:
        await take(reader, 1)
        assert await sleeps(reader)
        log.own()
        log.foreign()
        log.hint()
        if order == "hint first":
            log.wakeups.wake(["s"], in_tail=True)
        assert await take(reader, 3) == [2, 3]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ZeroDivisionError()])
async def test_after_an_error_it_looks_again(error: Exception, autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(1)
    with log.subscribe() as reader:
        await take(reader, 1)
        assert await sleeps(reader)
        log.foreign()
        log.hint()
        log.error = error
        with pytest.raises(type(error)):
            await reader.next()
        assert await take(reader, 2) == [2]


async def test_cancelled_in_a_read_it_looks_again(autojump_clock: MockClock) -> None:
    log = DeskLog()
    log.foreign(1)
    with log.subscribe() as reader:
        await take(reader, 1)
        assert await sleeps(reader)
        log.foreign()
        log.hint()
        with trio.move_on_after(0.0005) as cut:
            await reader.next()
        assert cut.cancelled_caught
        assert reader.position == 1
        assert await take(reader, 2) == [2]


acts = st.sampled_from(["own", "own", "foreign", "hint", "look", "look", "settle", "cut", "drop"])


@given(
    st.lists(
        st.tuples(acts, st.sampled_from(["now", "before_read", "after_read"]), st.integers(1, 4)), max_size=30
    ),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_whatever_comes_when(plan: list[tuple[str, str, int]], limit: int, after: int) -> None:
    """Once every foreign append was hinted at, the reader gets to the head without another ring."""
    log = DeskLog()
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
