"""The shared tails: contiguous pieces of the log within their byte limits, dropped at a gap."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Event
from eventstore.tail_cache import TAIL_BYTES, TailCache

AT = datetime(2026, 1, 1, tzinfo=UTC)
PLENTY = 10**9
SMALL = Event(1, "noted", AT, None, "").size


def event(position: int, size: int = 0) -> Event:
    return Event(position, "noted", AT, None, "x" * size)


def events(first: int, last: int, size: int = 0) -> list[Event]:
    return [event(position, size) for position in range(first, last + 1)]


def positions(found: Sequence[Event]) -> list[int]:
    return [one.position for one in found]


@pytest.fixture
def tails() -> TailCache:
    """One tail of the positions 5 to 8."""
    tails = TailCache(PLENTY, PLENTY)
    tails.offer("s", events(5, 8))
    return tails


@pytest.mark.parametrize(
    ("after", "limit", "found"),
    [
        (3, 10, []),  # 4 is not known here
        (4, 10, [5, 6, 7, 8]),
        (4, 2, [5, 6]),
        (5, 10, [6, 7, 8]),
        (6, 10, [7, 8]),
        (6, 1, [7]),
        (7, 10, [8]),
        (8, 10, []),
        (99, 10, []),
    ],
)
def test_events_after_a_position(tails: TailCache, after: int, limit: int, found: list[int]) -> None:
    assert positions(tails.after("s", after, limit)) == found


def test_stream_without_a_tail_is_empty(tails: TailCache) -> None:
    assert list(tails.after("t", 0, 10)) == []
    tails.drop("t")


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [
        (9, 9, [5, 6, 7, 8, 9]),
        (9, 11, [5, 6, 7, 8, 9, 10, 11]),
        (7, 10, [5, 6, 7, 8, 9, 10]),  # the part that is known is left out
        (5, 8, [5, 6, 7, 8]),
        (6, 7, [5, 6, 7, 8]),
        (1, 8, [5, 6, 7, 8]),
        (1, 9, [5, 6, 7, 8, 9]),
        (10, 11, [10, 11]),  # a gap
        (2, 1, [5, 6, 7, 8]),  # nothing
    ],
)
def test_offered_events_extend_or_replace_the_tail(
    tails: TailCache, first: int, last: int, left: list[int]
) -> None:
    tails.offer("s", events(first, last))
    assert positions(tails.after("s", left[0] - 1, 100)) == left
    assert list(tails.after("s", left[0] - 2, 100)) == []
    assert tails.size == TAIL_BYTES + SMALL * len(left)


def test_dropped_tail_is_empty(tails: TailCache) -> None:
    tails.drop("s")
    assert list(tails.after("s", 4, 10)) == []
    assert tails.size == 0


def test_oldest_events_are_evicted_first() -> None:
    tails = TailCache(stream_bytes=TAIL_BYTES + 5 * SMALL, total_bytes=PLENTY)
    for position in range(1, 9):
        tails.offer("s", [event(position)])
    assert positions(tails.after("s", 3, 10)) == [4, 5, 6, 7, 8]
    tails.offer("s", [event(9, size=10_000)])
    assert positions(tails.after("s", 8, 10)) == [9]
    assert list(tails.after("s", 7, 10)) == []


def test_least_recently_extended_stream_is_evicted_first() -> None:
    tails = TailCache(PLENTY, total_bytes=3 * TAIL_BYTES + 6 * SMALL)
    for stream in "abc":
        tails.offer(stream, events(1, 2))
    tails.offer("a", [event(3)])
    assert [tails.last(stream) for stream in "abc"] == [3, 0, 2]
    assert tails.size == 2 * TAIL_BYTES + 5 * SMALL
    tails.offer("d", [event(7)])
    assert [tails.last(stream) for stream in "abcd"] == [3, 0, 2, 7]
    tails.after("a", 1, 1)
    tails.offer("d", [event(8)])
    assert [tails.last(stream) for stream in "abcd"] == [3, 0, 0, 8], "a was read after c was written"


def test_memoized_bytes_count() -> None:
    tails = TailCache(PLENTY, total_bytes=2 * TAIL_BYTES + 4 * SMALL + 5_000)
    there = {stream: events(1, 2) for stream in "ab"}
    for stream, some in there.items():
        tails.offer(stream, some)
    there["b"][0].memoize("frame", bytes(1_000))
    assert tails.size == 2 * TAIL_BYTES + sum(one.size for some in there.values() for one in some)
    assert there["b"][0].size > SMALL + 1_000
    there["b"][1].memoize("frame", bytes(5_000))
    assert [tails.last(stream) for stream in "ab"] == [0, 2]
    assert tails.size == TAIL_BYTES + sum(one.size for one in there["b"])
    there["a"][0].memoize("frame", bytes(1_000))  # some reader has it still; the tails do not
    assert tails.size == TAIL_BYTES + sum(one.size for one in there["b"])


def test_stream_limit_counts_memoized_bytes() -> None:
    tails = TailCache(stream_bytes=TAIL_BYTES + 5_000, total_bytes=PLENTY)
    some = events(1, 8)
    tails.offer("s", some)
    for one in some:
        one.memoize("frame", bytes(1_000))
    assert tails.size <= TAIL_BYTES + 5_000
    assert tails.last("s") == 8
    assert some[0].holder is None
    tails.drop("s")
    assert tails.size == 0


stream = st.sampled_from("ab")
offer = st.tuples(stream, st.integers(1, 12), st.integers(0, 4))
drop = st.tuples(stream, st.just(0), st.just(0))

LOG = {(stream, position): event(position, position * 97 % 300) for stream in "ab" for position in range(1, 20)}


@given(
    st.lists(offer | offer | offer | drop, max_size=25),
    st.integers(1400, 4000),
    st.integers(1400, 7000),
    st.integers(1, 5),
)
def test_any_offers(acts: list[tuple[str, int, int]], stream_bytes: int, total_bytes: int, limit: int) -> None:
    tails = TailCache(stream_bytes, total_bytes)
    for stream, first, count in acts:
        if first == 0:
            tails.drop(stream)
            assert held_positions(tails, stream) == []
        else:
            tails.offer(stream, [LOG[stream, position] for position in range(first, first + count)])
            assert not count or held_positions(tails, stream)[-1] >= first + count - 1  # what came last is kept
        sizes = {name: [LOG[name, position].size for position in held_positions(tails, name)] for name in "ab"}
        assert tails.size == sum(TAIL_BYTES + sum(one) for one in sizes.values() if one)
        assert tails.size <= total_bytes or not all(sizes.values())
        assert all(TAIL_BYTES + sum(one) <= stream_bytes or len(one) <= 1 for one in sizes.values())
    for stream in "ab":
        has = held_positions(tails, stream)
        assert not has or has == list(range(has[0], has[-1] + 1))
        for position in range(20):
            follows = [LOG[stream, at] for at in has if at > position][:limit] if position + 1 in has else []
            assert list(tails.after(stream, position, limit)) == follows


def held_positions(tails: TailCache, stream: str) -> list[int]:
    """The positions in a stream's tail, found by asking for each."""
    return [position for position in range(1, 20) if tails.after(stream, position - 1, 1)]
