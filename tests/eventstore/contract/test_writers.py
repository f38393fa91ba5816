"""Fenced writers: a sequence repeated, skipped, overtaken; the terminal append, and its retry."""

from typing import Any

import pytest

from eventstore import Append, Appended, EventStore, Fenced, StreamUnknown, Writer, WrongExpectedPosition
from tests.eventstore.sample_events import names, note, whole


def written(epoch: int, seq: int, **options: Any) -> Append:
    """The append of writer `w`, its event named after epoch and sequence."""
    return note("s", f"{epoch}.{seq}", writer=Writer("w", epoch, seq), **options)


async def refused(store: EventStore, append: Append) -> str:
    """The reason for which the append is fenced off; the stream is as before."""
    before = names(await whole(store, append.stream))
    with pytest.raises(Fenced) as refusal:
        await store.append(append)
    assert refusal.value.stream == append.stream
    assert refusal.value.writer == (append.writer.name if append.writer else append.closes)
    assert names(await whole(store, append.stream)) == before
    return refusal.value.reason


async def test_a_writer_goes_on_in_sequence(store: EventStore) -> None:
    for seq in (1, 2, 3):
        appended = await store.append(written(1, seq))
        assert (appended.first, appended.repeated) == (seq, False)
    assert names(await whole(store, "s")) == ["1.1", "1.2", "1.3"]


async def test_the_newest_sequence_again_gets_the_first_positions(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", "before"))
    first = await store.append(note("s", "a", "b", writer=Writer("w", 1, 1)))
    await other.append(note("s", "after"))
    for process in (store, other):
        again = await process.append(note("s", "a", "b", writer=Writer("w", 1, 1)))
        assert again == Appended("s", first.first, first.last, None, repeated=True)
    assert names(await whole(store, "s")) == ["before", "a", "b", "after"]


async def test_a_repetition_stands_whatever_position_it_expects(store: EventStore) -> None:
    first = await store.append(written(1, 1, expected=0))
    await store.append(note("s", "after"))
    assert (await store.append(written(1, 1, expected=0))).last == first.last


@pytest.mark.parametrize(
    ("epoch", "seq", "reason"),
    [
        (2, 1, "sequence"),  # overtaken by 2.2 itself
        (2, 4, "sequence"),
        (2, 99, "sequence"),
        (1, 1, "epoch"),
        (1, 3, "epoch"),
        (0, 1, "epoch"),
        (3, 2, "sequence"),
        (3, 3, "sequence"),
    ],
)
async def test_what_is_not_the_next_is_fenced(store: EventStore, epoch: int, seq: int, reason: str) -> None:
    await store.append(written(2, 1))
    await store.append(written(2, 2))
    assert await refused(store, written(epoch, seq)) == reason
    assert (await store.append(written(2, 3))).first == 3


async def test_a_writer_begins_with_its_first(store: EventStore) -> None:
    await store.append(note("s", "there"))
    assert await refused(store, written(1, 2)) == "sequence"
    with pytest.raises(Fenced, match="sequence"):
        await store.append(note("new", 1, writer=Writer("w", 1, 2)))
    with pytest.raises(StreamUnknown):
        await store.head("new")


async def test_a_newer_epoch_takes_over(store: EventStore, other: EventStore) -> None:
    await store.append(written(1, 1))
    await store.append(written(1, 2))
    assert (await other.append(written(2, 1))).first == 3
    assert await refused(store, written(1, 3)) == "epoch"
    assert await refused(store, written(1, 2)) == "epoch"
    state = await store.writer("s", "w")
    assert state is not None
    assert (state.epoch, state.owner) == (2, other.owner)


async def test_a_refused_position_leaves_the_sequence_where_it_was(store: EventStore) -> None:
    await store.append(written(1, 1))
    await store.append(note("s", "between"))
    with pytest.raises(WrongExpectedPosition):
        await store.append(written(1, 2, expected=1))
    assert (await store.append(written(1, 2, expected=2))).first == 3


async def test_writers_of_one_stream_and_of_two_are_strangers(store: EventStore) -> None:
    await store.append(written(5, 1))
    await store.append(note("s", "v", writer=Writer("v", 1, 1)))
    await store.append(note("t", "t", writer=Writer("w", 1, 1), closes="w"))
    assert (await store.append(written(5, 2))).first == 3


async def test_the_terminal_append_closes_its_writer(store: EventStore, other: EventStore) -> None:
    await store.append(written(1, 1))
    await store.append(written(1, 2, closes="w"))
    state = await other.writer("s", "w")
    assert state is not None
    assert (state.closed, state.released) == (True, True)
    for append in (written(1, 3), written(1, 3, closes="w"), written(2, 1), written(1, 1), written(0, 1)):
        assert await refused(store, append) == "closed"


async def test_the_terminal_append_again_gets_the_same_positions(store: EventStore, other: EventStore) -> None:
    await store.append(written(1, 1))
    first = await store.append(written(1, 2, closes="w"))
    for process in (store, other):
        again = await process.append(written(1, 2, closes="w"))
        assert (again.first, again.last, again.repeated) == (first.first, first.last, True)
    assert names(await whole(store, "s")) == ["1.1", "1.2"]


async def test_a_first_append_may_be_the_terminal_one(store: EventStore) -> None:
    await store.append(written(1, 1, closes="w"))
    assert (await store.append(written(1, 1, closes="w"))).repeated
    assert await refused(store, written(1, 2)) == "closed"
