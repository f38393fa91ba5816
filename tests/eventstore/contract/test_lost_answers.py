"""The answer to a commit that got lost: whatever was sent goes out again, happens once, and is heard of."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from eventstore import Append, Backend, EventStore, Key, StoreUnavailable, Writer
from tests.eventstore.sample_events import BOUND, names, note, take, whole


@pytest.fixture
def lose(log: Backend, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds of call ("append", "read") whose next answer gets lost on its way back."""
    losing: set[str] = set()

    def wrap(name: str, call: Any) -> Any:
        async def lossy(batch: Sequence[Any]) -> Any:
            answer = await call(batch)
            if name in losing:
                losing.discard(name)
                raise StoreUnavailable("the answer got lost")
            return answer

        return lossy

    for name in ("append", "read"):
        monkeypatch.setattr(log, name, wrap(name, getattr(log, name)))
    return losing


PLAIN, WITH_DIGEST = Key("k", "plain"), Key("k", "digest", b"1")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"expected": 1},
        {"writer": Writer("w", 1, 1)},
        {"writer": Writer("w", 1, 1), "closes": "w"},
        {"closes": "w"},
        {"keys": (WITH_DIGEST,)},
        {"keys": (Key("k", "short", b"1", seconds=0.0),)},
        {"keys": (PLAIN,)},
        {"keys": (Key("k", "short and plain", seconds=0.0),)},
        {"keys": (PLAIN, WITH_DIGEST)},
        {"keys": (PLAIN,), "expected": 1},
        {"keys": (PLAIN,), "writer": Writer("w", 1, 1)},
        {"keys": (WITH_DIGEST, PLAIN), "writer": Writer("w", 1, 1), "expected": 1, "closes": "w"},
    ],
    ids=str,
)
async def test_it_happens_once(
    lose: set[str], store: EventStore, other: EventStore, options: dict[str, Any]
) -> None:
    await store.append(note("s", "opened"))
    lose.add("append")
    appended = await store.append(note("s", "a", "b", **options))
    assert not lose
    assert (appended.stream, appended.first, appended.last) == ("s", 2, 3)
    assert names(await whole(other, "s")) == ["opened", "a", "b"]
    assert (await store.append(note("s", "after"))).first == 4


async def test_a_whole_batch_happens_once(lose: set[str], store: EventStore) -> None:
    await store.append(note("s1", "opened", writer=Writer("w", 1, 1)))
    lose.add("append")
    appends = [note("s0", 1), note("s1", 1, writer=Writer("w", 1, 2)), note("s2", 1, keys=(PLAIN,))]
    firsts: dict[str, int] = {}

    async def ask(append: Append) -> None:
        firsts[append.stream] = (await store.append(append)).first

    async with trio.open_nursery() as nursery:
        for append in appends:
            nursery.start_soon(ask, append)
    assert firsts == {"s0": 1, "s1": 2, "s2": 1}
    for stream in firsts:
        assert len(await whole(store, stream)) == firsts[stream]


async def test_readers_everywhere_hear_of_it(lose: set[str], store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1))
    with store.subscribe("s") as here, other.subscribe("s") as there:
        for reader in (here, there):
            await take(reader, 1)
            assert list(await reader.poll()) == []
        await store.append(note("s", 2))  # in the tail, and not looked at yet: it must not hide what follows
        lose.add("append")
        await store.append(note("s", 3))
        for reader in (here, there):
            assert names(await take(reader, 2)) == ["2", "3"]


async def test_the_owner_of_a_closed_writer_hears_of_it(
    lose: set[str], store: EventStore, other: EventStore
) -> None:
    await other.append(note("s", 1, writer=Writer("w", 1, 1)))
    closed = trio.Event()
    other.on_close(closed.set)
    lose.add("append")
    await store.append(note("s", "cancelled", closes="w"))
    with trio.fail_after(BOUND):
        await closed.wait()
    assert list(await other.closed_by_others()) == [("s", "w")]


async def test_a_read_is_asked_again(lose: set[str], store: EventStore) -> None:
    await store.append(note("s", 1))
    lose.add("read")
    assert names((await store.read("s")).events) == ["1"]
    assert not lose
