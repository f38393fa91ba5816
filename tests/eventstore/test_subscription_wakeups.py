"""The wake-ups of subscriptions: who is woken, and that none is lost between arming and sleeping."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore.subscription import Waker, Wakeups


async def is_woken(waker: Waker) -> bool:
    """Whether its owner would go on at once."""
    with trio.move_on_after(1):
        await waker.sleep()
        return True
    return False


async def armed(wakeups: Wakeups, stream: str, position: int = 0) -> Waker:
    waker = wakeups.add(stream, position)
    waker.arm()
    waker.tail_incomplete = False
    return waker


async def test_new_waker_is_awake(autojump_clock: MockClock) -> None:
    waker = Wakeups().add("s", 3)
    assert (waker.stream, waker.position, waker.tail_incomplete) == ("s", 3, True)
    assert await is_woken(waker)
    assert await is_woken(waker)
    waker.arm()
    assert not await is_woken(waker)


async def test_wakeup_after_arming_is_not_lost(autojump_clock: MockClock) -> None:
    waker = await armed(Wakeups(), "s")
    waker.wake()
    waker.wake()
    assert await is_woken(waker)
    waker.arm()
    assert not await is_woken(waker)


async def test_sleeper_is_woken(autojump_clock: MockClock) -> None:
    wakeups = Wakeups()
    waker = await armed(wakeups, "s")
    woke: list[float] = []

    async def sleep() -> None:
        await waker.sleep()
        woke.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await trio.sleep(5)
        wakeups.wake(["s"])
    assert woke == [began + 5]


async def test_wake_reaches_the_stream_only(autojump_clock: MockClock) -> None:
    wakeups = Wakeups()
    ours = [await armed(wakeups, "s") for _ in range(3)]
    other = await armed(wakeups, "t")
    wakeups.wake(["s", "nobody is here"])
    assert [await is_woken(waker) for waker in (*ours, other)] == [True, True, True, False]
    assert all(waker.tail_incomplete for waker in ours)


async def test_wake_in_tail_keeps_the_tail_complete(autojump_clock: MockClock) -> None:
    wakeups = Wakeups()
    waker = await armed(wakeups, "s")
    wakeups.wake(["s"], in_tail=True)
    assert await is_woken(waker)
    assert not waker.tail_incomplete
    wakeups.wake(["s"])
    wakeups.wake(["s"], in_tail=True)
    assert waker.tail_incomplete  # what was heard of first is not taken back by the second


async def test_wake_all(autojump_clock: MockClock) -> None:
    wakeups = Wakeups()
    wakers = [await armed(wakeups, stream) for stream in ("s", "s", "t")]
    wakeups.wake_all()
    assert [await is_woken(waker) and waker.tail_incomplete for waker in wakers] == [True] * 3


async def test_wake_behind_a_head(autojump_clock: MockClock) -> None:
    wakeups = Wakeups()
    wakers = [await armed(wakeups, "s", position) for position in (3, 4, 5)]
    other = await armed(wakeups, "t", 0)
    wakeups.wake_behind("s", 4)
    wakeups.wake_behind("nobody is here", 4)
    assert [await is_woken(waker) for waker in (*wakers, other)] == [True, False, False, False]
    assert wakers[0].tail_incomplete


async def test_removed_waker_is_forgotten(autojump_clock: MockClock) -> None:
    wakeups = Wakeups()
    one, two, three = wakeups.add("s", 0), wakeups.add("s", 0), wakeups.add("t", 0)
    assert len(wakeups) == 3
    assert sorted(wakeups.streams()) == ["s", "t"]
    wakeups.remove(one)
    assert len(wakeups) == 2
    wakeups.remove(two)
    assert wakeups.streams() == ["t"]
    wakeups.remove(three)
    assert (len(wakeups), wakeups.streams()) == (0, [])
    two.arm()
    wakeups.wake(["s"])
    wakeups.wake_all()
    assert not await is_woken(two)


async def test_wakeup_is_kept_for_a_cancelled_sleeper(autojump_clock: MockClock) -> None:
    waker = await armed(Wakeups(), "s")
    assert not await is_woken(waker)
    waker.wake()
    waker.wake()
    assert await is_woken(waker)


async def test_one_sleeper_per_waker(autojump_clock: MockClock) -> None:
    waker = await armed(Wakeups(), "s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waker.sleep)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await waker.sleep()
        waker.wake()


def test_a_remote_listener_hears_of_other_processes_alone() -> None:
    """What its own process appends is in the tail: the hot path of a writer calls nobody."""
    wakeups = Wakeups()
    heard: list[str] = []
    with wakeups.listen("s", 5, lambda: heard.append("s")) as listener:
        wakeups.wake(["s"], in_tail=True)
        wakeups.wake(["t"])
        wakeups.wake_behind("s", 5)
        assert heard == []
        wakeups.wake(["s"])
        wakeups.wake_all()
        wakeups.wake_behind("s", 6)
        assert heard == ["s"] * 3
        listener.position = 6
        wakeups.wake_behind("s", 6)
        assert heard == ["s"] * 3
        assert (wakeups.streams(), wakeups.furthest("s"), len(wakeups)) == (["s"], 6, 0), "it is no reader"
    wakeups.wake(["s"])
    assert (heard, wakeups.streams()) == (["s"] * 3, [])


def test_streams_with_a_listener_and_a_reader_are_named_once() -> None:
    wakeups = Wakeups()
    waker = wakeups.add("s", 9)
    with wakeups.listen("s", 3, lambda: None), wakeups.listen("t", 4, lambda: None):
        assert sorted(wakeups.streams()) == ["s", "t"]
        assert (wakeups.furthest("s"), wakeups.furthest("t")) == (9, 4)
    wakeups.remove(waker)
    assert wakeups.streams() == []
