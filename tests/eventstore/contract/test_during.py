"""Speaking during a writer's run without being it: taken while it runs, refused before and once it is over."""

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
from tests.eventstore.sample_events import names, note, whole


async def refused(store: EventStore, append: Append) -> str:
    """The reason of the fence, of the writer that was spoken to."""
    with pytest.raises(Fenced) as refusal:
        await store.append(append)
    assert (refusal.value.stream, refusal.value.writer) == (append.stream, append.during)
    return refusal.value.reason


async def test_the_writer_goes_on_where_it_was(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 3, 1)))
    for process in (store, other):
        await process.append(note("s", "steered", "twice", during="w"))
        assert await process.writer("s", "w") == WriterState(3, store.owner, False, False, True)
    assert await store.open_writers() == [OpenWriter("s", "w", 3, store.owner)]
    again = await store.append(note("s", 1, writer=Writer("w", 3, 1)))
    assert (again.first, again.repeated) == (1, True)
    assert (await store.append(note("s", 2, writer=Writer("w", 3, 2)))).first == 6
    assert (await other.append(note("s", 3, writer=Writer("w", 4, 1)))).first == 7
    assert (await store.append(note("s", "to whoever took over", during="w"))).first == 8
    assert (await store.append(note("s", "end", closes="w"))).first == 9


@pytest.mark.parametrize("by", ["itself", "outside", "outside, before it began"])
async def test_nothing_is_said_to_one_that_is_closed(store: EventStore, other: EventStore, by: str) -> None:
    if by != "outside, before it began":
        await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    writer = Writer("w", 1, 2) if by == "itself" else None
    await store.append(note("s", "end", writer=writer, closes="w"))
    before = names(await whole(store, "s"))
    for process in (store, other):
        assert await refused(process, note("s", "too late", during="w")) == "closed"
        assert await refused(process, note("s", "too late", during="w", expected=0)) == "closed"
    assert names(await whole(other, "s")) == before


async def test_nor_to_one_that_never_wrote(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("v", 1, 1)))
    await store.append(note("t", 1, writer=Writer("w", 1, 1)))
    for expected in (-1, 0, 1):
        assert await refused(other, note("s", "nobody hears", during="w", expected=expected)) == "unknown"
        assert await refused(other, note("new", "nobody hears", during="w", expected=expected)) == "unknown"
    assert names(await whole(other, "s")) == ["1"]
    with pytest.raises(StreamUnknown):
        await store.head("new")
    assert await store.writer("s", "w") is None
    assert {found.name for found in await store.open_writers() if found.stream == "s"} == {"v"}
    # And it begins as if nobody had spoken.
    assert (await store.append(note("s", 2, writer=Writer("w", 0, 1)))).first == 2
    assert (await other.append(note("s", 3, during="w"))).first == 3


async def test_the_expected_position_is_asked_last(store: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    with pytest.raises(WrongExpectedPosition):
        await store.append(note("s", "x", during="w", expected=0))
    assert (await store.append(note("s", "x", during="w", expected=1))).first == 2


async def test_said_twice_under_a_key_it_is_said_once(store: EventStore, other: EventStore) -> None:
    said = note("s", "yes", during="w", keys=(Key("k", "k", b"1"),))
    assert await refused(store, said) == "unknown"
    assert await store.find_key("k", "k") is None  # a refused append claims nothing
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    assert not (await store.append(said)).repeated
    await store.append(note("s", "end", closes="w"))
    again = await other.append(said)
    assert (again.first, again.last, again.repeated) == (2, 2, True)
    fresh = note("s", "no", during="w", keys=(Key("k", "fresh", b"1"),))
    assert await refused(other, fresh) == "closed"
    assert await store.find_key("k", "fresh") is None


async def test_a_refused_one_harms_no_neighbour(store: EventStore) -> None:
    """All in one batch: tokens, those who are heard, those who are not, and others."""
    for n in range(6):
        await store.append(note(f"s{n}", "begin", writer=Writer("w", 1, 1)))
    await store.append(note("s5", "end", closes="w"))
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
            ("first", note("alone", "goes at once, the others together")),
            ("token", note("s0", "token", writer=Writer("w", 1, 2))),
            ("heard", note("s1", "heard", during="w")),
            ("unknown", note("s2", "unheard", during="v")),
            ("no stream", note("nowhere", "unheard", during="w")),
            ("last token", note("s3", "last", writer=Writer("w", 1, 2), closes="w")),
            ("closes", note("s4", "cancelled", closes="w")),
            ("over", note("s5", "unheard", during="w")),
            ("ghost", note("s2", "x", writer=Writer("v", 1, 2))),
            ("plain", note("new", "plain")),
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


async def test_none_is_taken_behind_the_close(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", "begin", writer=Writer("w", 1, 1)))
    reasons: list[str] = []

    async def speak(process: EventStore, n: int) -> None:
        try:
            await process.append(note("s", n, during="w"))
        except Fenced as fenced:
            reasons.append(fenced.reason)

    async def close() -> None:
        await store.append(note("s", "heard", during="w"))
        await other.append(note("s", "end", closes="w"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        for n in range(40):
            nursery.start_soon(speak, (store, other)[n % 2], n)
    said: Sequence[str] = names(await whole(store, "s"))
    assert said[-1] == "end"
    assert set(reasons) <= {"closed"}
    assert len(said) + len(reasons) == 43


@pytest.mark.parametrize("options", [{"writer": Writer("w", 1, 1)}, {"closes": "w"}, {"closes": "v"}])
async def test_who_speaks_is_not_the_writer_and_closes_none(store: EventStore, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="during"):
        await store.append(note("s", 1, during="w", **options))
    with pytest.raises(StreamUnknown):
        await store.head("s")
