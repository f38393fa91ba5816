"""Fenced writers: repeated, skipped and overtaken sequence numbers; the terminal append and its retry."""

from typing import Any

import pytest

from eventstore import Append, Appended, EventStore, Fenced, StreamUnknown, Writer, WrongExpectedPosition
from tests.eventstore.sample_events import case, names, read_all, sample_append


def writer_append(epoch: int, seq: int, **options: Any) -> Append:
    """The append of writer `w`, its event named after epoch and sequence."""
    return sample_append("s", f"{epoch}.{seq}", writer=Writer("w", epoch, seq), **options)


async def fence_reason(store: EventStore, append: Append) -> str:
    """The reason of the fence; also checks that the stream is unchanged."""
    before = names(await read_all(store, append.stream))
    with pytest.raises(Fenced) as refusal:
        await store.append(append)
    assert refusal.value.stream == append.stream
    assert refusal.value.writer == (append.writer.name if append.writer else append.closes)
    assert names(await read_all(store, append.stream)) == before
    return refusal.value.reason


async def test_writer_appends_in_sequence(store: EventStore) -> None:
    for seq in (1, 2, 3):
        appended = await store.append(writer_append(1, seq))
        assert (appended.first, appended.repeated) == (seq, False)
    assert names(await read_all(store, "s")) == ["1.1", "1.2", "1.3"]


async def test_repeated_sequence_gets_the_first_positions(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", "before"))
    first = await store.append(sample_append("s", "a", "b", writer=Writer("w", 1, 1)))
    await other.append(sample_append("s", "after"))
    for process in (store, other):
        again = await process.append(sample_append("s", "a", "b", writer=Writer("w", 1, 1)))
        assert again == Appended("s", first.first, first.last, None, repeated=True)
    assert names(await read_all(store, "s")) == ["before", "a", "b", "after"]


async def test_repetition_ignores_the_expected_position(store: EventStore) -> None:
    first = await store.append(writer_append(1, 1, expected=0))
    await store.append(sample_append("s", "after"))
    assert (await store.append(writer_append(1, 1, expected=0))).last == first.last


NOT_THE_NEXT = [
    (2, 1, "sequence"),  # overtaken by 2.2 itself
    (2, 4, "sequence"),
    (2, 99, "sequence"),
    (1, 1, "epoch"),
    (1, 3, "epoch"),
    (0, 1, "epoch"),
    (3, 2, "sequence"),
    (3, 3, "sequence"),
]


async def test_wrong_sequence_or_epoch_is_fenced(store: EventStore) -> None:
    await store.append(writer_append(2, 1))
    await store.append(writer_append(2, 2))
    for epoch, seq, reason in NOT_THE_NEXT:
        with case((epoch, seq)):
            assert await fence_reason(store, writer_append(epoch, seq)) == reason
    assert (await store.append(writer_append(2, 3))).first == 3


async def test_first_sequence_must_be_one(store: EventStore) -> None:
    await store.append(sample_append("s", "there"))
    assert await fence_reason(store, writer_append(1, 2)) == "sequence"
    with pytest.raises(Fenced, match="sequence"):
        await store.append(sample_append("new", 1, writer=Writer("w", 1, 2)))
    with pytest.raises(StreamUnknown):
        await store.head("new")


async def test_newer_epoch_takes_over(store: EventStore, other: EventStore) -> None:
    await store.append(writer_append(1, 1))
    await store.append(writer_append(1, 2))
    assert (await other.append(writer_append(2, 1))).first == 3
    assert await fence_reason(store, writer_append(1, 3)) == "epoch"
    assert await fence_reason(store, writer_append(1, 2)) == "epoch"
    state = await store.writer("s", "w")
    assert state is not None
    assert (state.epoch, state.owner) == (2, other.owner)


async def test_refused_position_uses_no_sequence(store: EventStore) -> None:
    await store.append(writer_append(1, 1))
    await store.append(sample_append("s", "between"))
    with pytest.raises(WrongExpectedPosition):
        await store.append(writer_append(1, 2, expected=1))
    assert (await store.append(writer_append(1, 2, expected=2))).first == 3


async def test_writers_are_independent(store: EventStore) -> None:
    await store.append(writer_append(5, 1))
    await store.append(sample_append("s", "v", writer=Writer("v", 1, 1)))
    await store.append(sample_append("t", "t", writer=Writer("w", 1, 1), closes="w"))
    assert (await store.append(writer_append(5, 2))).first == 3


async def test_terminal_append_closes_its_writer(store: EventStore, other: EventStore) -> None:
    await store.append(writer_append(1, 1))
    await store.append(writer_append(1, 2, closes="w"))
    state = await other.writer("s", "w")
    assert state is not None
    assert (state.closed, state.released) == (True, True)
    for append in (
        writer_append(1, 3),
        writer_append(1, 3, closes="w"),
        writer_append(2, 1),
        writer_append(1, 1),
        writer_append(0, 1),
    ):
        assert await fence_reason(store, append) == "closed"


async def test_repeated_terminal_append_gets_the_same_positions(store: EventStore, other: EventStore) -> None:
    await store.append(writer_append(1, 1))
    first = await store.append(writer_append(1, 2, closes="w"))
    for process in (store, other):
        again = await process.append(writer_append(1, 2, closes="w"))
        assert (again.first, again.last, again.repeated) == (first.first, first.last, True)
    assert names(await read_all(store, "s")) == ["1.1", "1.2"]


async def test_first_append_may_be_terminal(store: EventStore) -> None:
    await store.append(writer_append(1, 1, closes="w"))
    assert (await store.append(writer_append(1, 1, closes="w"))).repeated
    assert await fence_reason(store, writer_append(1, 2)) == "closed"
