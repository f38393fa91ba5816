"""Appends `during` a writer's run, made by somebody else: accepted while it runs, refused before and after
it.
"""

from collections.abc import Sequence

import pytest
import trio

from eventstore import (
    Append,
    EventStore,
    Fenced,
    Key,
    OpenWriter,
    StreamUnknown,
    Writer,
    WriterState,
    WrongExpectedPosition,
)
from tests.eventstore.sample_events import names, read_all, sample_append


async def fence_reason(store: EventStore, append: Append) -> str:
    """The reason of the fence that refused the append."""
    with pytest.raises(Fenced) as refusal:
        await store.append(append)
    assert (refusal.value.stream, refusal.value.writer) == (append.stream, append.during)
    return refusal.value.reason


async def test_writer_continues_in_sequence(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 3, 1)))
    for process in (store, other):
        await process.append(sample_append("s", "steered", "twice", during="w"))
        assert await process.writer("s", "w") == WriterState(3, store.owner, False, False, True)
    assert await store.open_writers() == [OpenWriter("s", "w", 3, store.owner)]
    again = await store.append(sample_append("s", 1, writer=Writer("w", 3, 1)))
    assert (again.first, again.repeated) == (1, True)
    assert (await store.append(sample_append("s", 2, writer=Writer("w", 3, 2)))).first == 6
    assert (await other.append(sample_append("s", 3, writer=Writer("w", 4, 1)))).first == 7
    assert (await store.append(sample_append("s", "to whoever took over", during="w"))).first == 8
    assert (await store.append(sample_append("s", "end", closes="w"))).first == 9


@pytest.mark.parametrize("by", ["itself", "outside", "outside, before it began"])
async def test_append_during_a_closed_writer_is_refused(store: EventStore, other: EventStore, by: str) -> None:
    if by != "outside, before it began":
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    writer = Writer("w", 1, 2) if by == "itself" else None
    await store.append(sample_append("s", "end", writer=writer, closes="w"))
    before = names(await read_all(store, "s"))
    for process in (store, other):
        assert await fence_reason(process, sample_append("s", "too late", during="w")) == "closed"
        assert await fence_reason(process, sample_append("s", "too late", during="w", expected=0)) == "closed"
    assert names(await read_all(other, "s")) == before


async def test_append_during_an_unknown_writer_is_refused(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("v", 1, 1)))
    await store.append(sample_append("t", 1, writer=Writer("w", 1, 1)))
    for expected in (-1, 0, 1):
        assert (
            await fence_reason(other, sample_append("s", "nobody hears", during="w", expected=expected))
            == "unknown"
        )
        assert (
            await fence_reason(other, sample_append("new", "nobody hears", during="w", expected=expected))
            == "unknown"
        )
    assert names(await read_all(other, "s")) == ["1"]
    with pytest.raises(StreamUnknown):
        await store.head("new")
    assert await store.writer("s", "w") is None
    assert {found.name for found in await store.open_writers() if found.stream == "s"} == {"v"}
    # And it begins as if nobody had spoken.
    assert (await store.append(sample_append("s", 2, writer=Writer("w", 0, 1)))).first == 2
    assert (await other.append(sample_append("s", 3, during="w"))).first == 3


async def test_expected_position_is_checked_last(store: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    with pytest.raises(WrongExpectedPosition):
        await store.append(sample_append("s", "x", during="w", expected=0))
    assert (await store.append(sample_append("s", "x", during="w", expected=1))).first == 2


async def test_repeated_key_appends_once(store: EventStore, other: EventStore) -> None:
    said = sample_append("s", "yes", during="w", keys=(Key("k", "k", b"1"),))
    assert await fence_reason(store, said) == "unknown"
    assert await store.find_key("k", "k") is None  # a refused append claims nothing
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    assert not (await store.append(said)).repeated
    await store.append(sample_append("s", "end", closes="w"))
    again = await other.append(said)
    assert (again.first, again.last, again.repeated) == (2, 2, True)
    fresh = sample_append("s", "no", during="w", keys=(Key("k", "fresh", b"1"),))
    assert await fence_reason(other, fresh) == "closed"
    assert await store.find_key("k", "fresh") is None


async def test_refused_append_leaves_its_batch_alone(store: EventStore) -> None:
    """One batch holds tokens, accepted and refused appends during a writer, and others."""
    for n in range(6):
        await store.append(sample_append(f"s{n}", "begin", writer=Writer("w", 1, 1)))
    await store.append(sample_append("s5", "end", closes="w"))
    came: dict[str, str] = {}

    async def ask(name: str, append: Append) -> None:
        try:
            appended = await store.append(append)
        except Fenced as fenced:
            came[name] = fenced.reason
        else:
            came[name] = f"{appended.stream} {appended.first}"

    async with trio.open_nursery() as nursery:
        for name, append in (
            ("first", sample_append("alone", "goes at once, the others together")),
            ("token", sample_append("s0", "token", writer=Writer("w", 1, 2))),
            ("heard", sample_append("s1", "heard", during="w")),
            ("unknown", sample_append("s2", "unheard", during="v")),
            ("no stream", sample_append("nowhere", "unheard", during="w")),
            ("last token", sample_append("s3", "last", writer=Writer("w", 1, 2), closes="w")),
            ("closes", sample_append("s4", "cancelled", closes="w")),
            ("over", sample_append("s5", "unheard", during="w")),
            ("ghost", sample_append("s2", "x", writer=Writer("v", 1, 2))),
            ("plain", sample_append("new", "plain")),
        ):
            nursery.start_soon(ask, name, append)
    assert came == {
        "first": "alone 1",
        "token": "s0 2",
        "heard": "s1 2",
        "unknown": "unknown",
        "no stream": "unknown",
        "last token": "s3 2",
        "closes": "s4 2",
        "over": "closed",
        "ghost": "sequence",
        "plain": "new 1",
    }


async def test_no_append_lands_after_the_close(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", "begin", writer=Writer("w", 1, 1)))
    reasons: list[str] = []

    async def speak(process: EventStore, n: int) -> None:
        try:
            await process.append(sample_append("s", n, during="w"))
        except Fenced as fenced:
            reasons.append(fenced.reason)

    async def close() -> None:
        await store.append(sample_append("s", "heard", during="w"))
        await other.append(sample_append("s", "end", closes="w"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        for n in range(40):
            nursery.start_soon(speak, (store, other)[n % 2], n)
    said: Sequence[str] = names(await read_all(store, "s"))
    assert said[-1] == "end"
    assert set(reasons) <= {"closed"}
    assert len(said) + len(reasons) == 43


@pytest.mark.parametrize("options", [{"writer": Writer("w", 1, 1)}, {"closes": "w"}, {"closes": "v"}])
async def test_during_excludes_writer_and_closes(store: EventStore, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="during"):
        await store.append(sample_append("s", 1, during="w", **options))
    with pytest.raises(StreamUnknown):
        await store.head("s")
