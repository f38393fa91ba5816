"""The answer to a commit is lost: the call is sent again, happens once, and readers are woken."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from eventstore import Append, Backend, EventStore, Key, StoreUnavailable, Writer
from tests.eventstore.sample_events import BOUND, case, names, read_all, sample_append, take


@pytest.fixture
def lose_next_answer(log: Backend, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds of call ("append", "read") whose next answer is lost on its way back."""
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


APPENDS: list[dict[str, Any]] = [
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
]


async def test_resent_append_happens_once(
    lose_next_answer: set[str], store: EventStore, other: EventStore
) -> None:
    for n, options in enumerate(APPENDS):
        stream = f"s{n}"
        keys = tuple(replace(key, name=f"{key.name} {stream}") for key in options.get("keys", ()))
        with case(options):
            await store.append(sample_append(stream, "opened"))
            lose_next_answer.add("append")
            appended = await store.append(sample_append(stream, "a", "b", **{**options, "keys": keys}))
            assert not lose_next_answer
            assert (appended.stream, appended.first, appended.last) == (stream, 2, 3)
            assert names(await read_all(other, stream)) == ["opened", "a", "b"]
            assert (await store.append(sample_append(stream, "after"))).first == 4


async def test_resent_batch_happens_once(lose_next_answer: set[str], store: EventStore) -> None:
    await store.append(sample_append("s1", "opened", writer=Writer("w", 1, 1)))
    lose_next_answer.add("append")
    appends = [
        sample_append("s0", 1),
        sample_append("s1", 1, writer=Writer("w", 1, 2)),
        sample_append("s2", 1, keys=(PLAIN,)),
    ]
    firsts: dict[str, int] = {}

    async def ask(append: Append) -> None:
        firsts[append.stream] = (await store.append(append)).first

    async with trio.open_nursery() as nursery:
        for append in appends:
            nursery.start_soon(ask, append)
    assert firsts == {"s0": 1, "s1": 2, "s2": 1}
    for stream in firsts:
        assert len(await read_all(store, stream)) == firsts[stream]


async def test_readers_of_all_processes_are_woken(
    lose_next_answer: set[str], store: EventStore, other: EventStore
) -> None:
    await store.append(sample_append("s", 1))
    with store.subscribe("s") as here, other.subscribe("s") as there:
        for reader in (here, there):
            await take(reader, 1)
            assert list(await reader.poll()) == []
        await store.append(
            sample_append("s", 2)
        )  # in the tail, and not looked at yet: it must not hide what follows
        lose_next_answer.add("append")
        await store.append(sample_append("s", 3))
        for reader in (here, there):
            assert names(await take(reader, 2)) == ["2", "3"]


async def test_owner_of_the_closed_writer_is_notified(
    lose_next_answer: set[str], store: EventStore, other: EventStore
) -> None:
    await other.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    closed = trio.Event()
    other.on_close(closed.set)
    lose_next_answer.add("append")
    await store.append(sample_append("s", "cancelled", closes="w"))
    with trio.fail_after(BOUND):
        await closed.wait()
    assert list(await other.closed_by_others()) == [("s", "w")]


async def test_read_is_sent_again(lose_next_answer: set[str], store: EventStore) -> None:
    await store.append(sample_append("s", 1))
    lose_next_answer.add("read")
    assert names((await store.read("s")).events) == ["1"]
    assert not lose_next_answer
