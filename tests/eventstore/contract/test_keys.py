"""Idempotency keys: one claim is one append, from any stream and process; other content is refused."""

import pytest
import trio

from eventstore import Appended, EventStore, Key, KeyReused, Place, StreamUnknown, Writer, WrongExpectedPosition
from tests.eventstore.sample_events import names, read_all, sample_append

KEY = Key("caller", "k1", b"digest")


async def test_repeated_key_gets_the_first_place(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", "before"))
    await store.append(sample_append("s", "a", "b", keys=(KEY,)))
    for process in (store, other):
        for stream in ("s", "never made"):
            again = await process.append(sample_append(stream, "a", "b", keys=(KEY,)))
            assert again == Appended("s", 2, 3, None, repeated=True)
        assert await process.find_key("caller", "k1") == Place("s", 2, 3, b"digest")
    assert names(await read_all(store, "s")) == ["before", "a", "b"]
    with pytest.raises(StreamUnknown):
        await store.head("never made")


async def test_repetition_is_checked_before_other_conditions(store: EventStore) -> None:
    await store.append(sample_append("s", 1, keys=(KEY,), writer=Writer("w", 1, 1), closes="w"))
    again = await store.append(sample_append("s", 1, keys=(KEY,), writer=Writer("w", 1, 7), expected=0))
    assert (again.first, again.repeated) == (1, True)


@pytest.mark.parametrize(
    ("first", "second"), [(b"digest", b"other"), (b"digest", None), (None, b"digest"), (None, None)]
)
async def test_key_with_another_digest_is_refused(
    store: EventStore, other: EventStore, first: bytes | None, second: bytes | None
) -> None:
    await store.append(sample_append("s", 1, keys=(Key("caller", "k", first),)))
    for process in (store, other):
        for stream in ("s", "t"):
            with pytest.raises(KeyReused) as refusal:
                await process.append(sample_append(stream, 2, keys=(Key("caller", "k", second),)))
            assert refusal.value.stream == stream
    assert names(await read_all(store, "s")) == ["1"]
    with pytest.raises(StreamUnknown):
        await store.head("t")


async def test_scopes_are_independent(store: EventStore) -> None:
    await store.append(sample_append("s", 1, keys=(Key("a", "k", b"1"),)))
    assert (await store.append(sample_append("s", 2, keys=(Key("b", "k", b"2"),)))).first == 2


async def test_one_of_many_concurrent_claims_appends(store: EventStore, other: EventStore) -> None:
    places: list[Appended] = []

    async def ask(process: EventStore, n: int) -> None:
        places.append(await process.append(sample_append(f"s{n}", "x", keys=(KEY,))))

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(ask, (store, other)[n % 2], n)
    assert len({(place.stream, place.first, place.last) for place in places}) == 1
    assert [place.repeated for place in places].count(False) == 1
    for n in range(20):
        if f"s{n}" != places[0].stream:
            with pytest.raises(StreamUnknown):
                await store.head(f"s{n}")


async def test_refused_append_leaves_no_key_and_no_stream(store: EventStore) -> None:
    with pytest.raises(WrongExpectedPosition):
        await store.append(sample_append("s", 1, keys=(KEY,), expected=3))
    assert await store.find_key("caller", "k1") is None
    with pytest.raises(StreamUnknown):
        await store.head("s")
    other = Key("caller", "k1", b"other")
    assert not (await store.append(sample_append("t", 1, keys=(other,)))).repeated
    assert (await store.append(sample_append("t", 1, keys=(other,)))).repeated
    assert await store.find_key("caller", "k1") == Place("t", 1, 1, b"other")


async def test_two_keys_are_claimed_together(store: EventStore, other: EventStore) -> None:
    plain = Key("generations", "g1")
    first = await store.append(sample_append("s", 1, 2, keys=(KEY, plain)))
    for key in (KEY, plain):
        place = await other.find_key(key.scope, key.name)
        assert place is not None
        assert (place.stream, place.first, place.last) == ("s", first.first, first.last)
    with pytest.raises(KeyReused):  # the plain one belongs to one append only
        await other.append(sample_append("t", 1, keys=(KEY, plain)))
    with pytest.raises(KeyReused):
        await other.append(sample_append("t", 1, keys=(Key("caller", "new", b"1"), plain)))
    assert await store.find_key("caller", "new") is None
    assert (await other.append(sample_append("t", 1, keys=(KEY, Key("generations", "g2"))))).stream == "s"
    assert await store.find_key("generations", "g2") is None


async def test_keys_of_two_different_appends_are_refused(store: EventStore) -> None:
    one, two = Key("caller", "one", b"1"), Key("caller", "two", b"2")
    await store.append(sample_append("t", "a", "b", keys=(two,)))
    await store.append(sample_append("s", "x", keys=(one,)))
    for keys in ((one, two), (two, one)):
        with pytest.raises(KeyReused):
            await store.append(sample_append("s", "y", keys=keys))
    assert names(await read_all(store, "s")) == ["x"]


async def test_unexpired_key_is_kept(store: EventStore) -> None:
    kept = Key("caller", "k", b"1", seconds=1000.0)
    first = await store.append(sample_append("s", 1, keys=(kept,)))
    assert (await store.append(sample_append("s", 1, keys=(kept,)))).last == first.last
    assert await store.expire_keys() == 0
    assert await store.find_key("caller", "k") == Place("s", 1, 1, b"1")


async def test_expired_key_can_be_claimed_again(store: EventStore, other: EventStore) -> None:
    await store.append(
        sample_append("s", 1, keys=(Key("caller", "k", b"1", seconds=0.0), Key("caller", "stays", b"1")))
    )
    assert await other.find_key("caller", "k") is None
    again = await other.append(sample_append("t", 2, keys=(Key("caller", "k", b"2", seconds=1000.0),)))
    assert (again.stream, again.first, again.repeated) == ("t", 1, False)
    assert await store.find_key("caller", "k") == Place("t", 1, 1, b"2")


async def test_expired_keys_are_removed_and_counted(store: EventStore) -> None:
    gone = tuple(Key("caller", f"gone {n}", b"1", seconds=0.0) for n in range(3))
    await store.append(sample_append("s", 1, keys=(*gone, Key("caller", "stays", b"1"))))
    assert await store.expire_keys() == 3
    assert await store.expire_keys() == 0
    assert await store.find_key("caller", "stays") == Place("s", 1, 1, b"1")
    assert await store.find_key("caller", "never") is None
