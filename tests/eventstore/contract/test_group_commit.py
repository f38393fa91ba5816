"""Group commit: appends that wait together are sent together, each with its own verdict."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from eventstore import (
    Append,
    Appended,
    Backend,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    StoreError,
    Writer,
    WrongExpectedPosition,
)
from tests.eventstore.sample_events import BOUND, is_gapless, names, read_all, sample_append, wait_until


@pytest.fixture
def batches(log: Backend, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Append]]:
    """Every batch that reaches the log, in order."""
    taken: list[Sequence[Append]] = []
    append = log.append

    async def watch(batch: Sequence[Append]) -> Any:
        taken.append(batch)
        return await append(batch)

    monkeypatch.setattr(log, "append", watch)
    return taken


async def append_all(store: EventStore, appends: Sequence[Append]) -> list[Appended | StoreError]:
    """The outcome of each append, all made at once."""
    answers: dict[int, Appended | StoreError] = {}

    async def ask(n: int) -> None:
        try:
            answers[n] = await store.append(appends[n])
        except StoreError as error:
            answers[n] = error

    async with trio.open_nursery() as nursery:
        for n in range(len(appends)):
            nursery.start_soon(ask, n)
    return [answers[n] for n in range(len(appends))]


async def test_refused_appends_leave_their_batch_alone(batches: list[Sequence[Append]], store: EventStore) -> None:
    await store.append(sample_append("used", 1, keys=(Key("k", "taken", b"1"),)))
    await store.append(sample_append("fenced", 1, writer=Writer("w", 1, 1), closes="w"))
    refused: list[tuple[Callable[[int], Append], type[StoreError]]] = [
        (lambda n: sample_append(f"bad{n}", n, expected=5), WrongExpectedPosition),
        (lambda n: sample_append(f"bad{n}", n, keys=(Key("k", f"fresh{n}"),), expected=1), WrongExpectedPosition),
        (lambda n: sample_append(f"bad{n}", n, writer=Writer("w", 1, 9)), Fenced),
    ]
    appends: list[Append] = []
    kinds: list[type[StoreError] | None] = []
    for n in range(50):
        make, kind = refused[n // 2 % 3]
        appends.append(make(n) if n % 2 else sample_append(f"good{n}", n, keys=(Key("k", f"good{n}", b"1"),)))
        kinds.append(kind if n % 2 else None)
    # One stream and one key can have one append a batch: these two come one after the other.
    appends += [
        sample_append("fenced", 2, writer=Writer("w", 1, 2)),
        sample_append("used", 2, keys=(Key("k", "taken"),)),
    ]
    kinds += [Fenced, KeyReused]
    batches.clear()
    answers = await append_all(store, appends)
    for append, answer, wanted in zip(appends, answers, kinds, strict=True):
        if wanted is None:
            assert isinstance(answer, Appended)
            assert (answer.stream, answer.first, answer.last) == (append.stream, 1, 1)
            assert names(await read_all(store, append.stream)) == [append.stream.removeprefix("good")]
        else:
            assert type(answer) is wanted
    assert len(batches) <= 5
    assert max(map(len, batches)) > 20
    rows = await store.list_streams("", None, 1000)
    assert sorted(row.name for row in rows) == sorted([f"good{n}" for n in range(0, 50, 2)] + ["used", "fenced"])
    for n in range(50):
        found = await store.find_key("k", f"fresh{n}")
        assert found is None


async def test_appends_to_one_stream_keep_their_order(batches: list[Sequence[Append]], store: EventStore) -> None:
    answers = await append_all(store, [sample_append(f"s{n % 3}", n) for n in range(60)])
    assert not [answer for answer in answers if isinstance(answer, StoreError)]
    for k in range(3):
        events = await read_all(store, f"s{k}")
        assert is_gapless(events)
        assert sorted(names(events), key=int) == [str(n) for n in range(k, 60, 3)]
    asked = [append.events[0] for batch in batches for append in batch if append.stream == "s0"]
    assert [event.data for event in asked] == [event.data for event in await read_all(store, "s0")]
    assert all(len({append.stream for append in batch}) == len(batch) for batch in batches)


async def test_single_append_is_not_delayed(batches: list[Sequence[Append]], store: EventStore) -> None:
    for n in range(5):
        await store.append(sample_append("s", n))
    assert [len(batch) for batch in batches] == [1] * 5


async def test_cancelled_append_cancels_no_other(
    log: Backend, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, left, go = log.append, trio.Event(), trio.Event()
    sizes: list[int] = []

    async def hold(batch: Sequence[Append]) -> Any:
        sizes.append(len(batch))
        left.set()
        await go.wait()
        return await append(batch)

    monkeypatch.setattr(log, "append", hold)
    answers: list[Appended] = []

    async def ask(n: int, scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await store.append(sample_append(f"s{n}" if n >= 0 else "lane", n)))

    scopes = [trio.CancelScope() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for n in range(log.parallel_appends - 1):
            nursery.start_soon(ask, -1 - n, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        sizes.clear()
        left = trio.Event()
        nursery.start_soon(ask, 0, scopes[0])
        await left.wait()  # 0 is under way by itself, in the last lane; the others gather
        for n in range(1, 6):
            nursery.start_soon(ask, n, scopes[n])
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()  # its append is at the database: it happens, nobody hears the answer
        scopes[2].cancel()  # its append has not left: it does not
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert {answer.stream for answer in answers} - {"lane"} == {"s1", "s3", "s4", "s5"}
    assert sizes == [1, 4]

    async def known() -> bool:
        rows = await store.list_streams("", None, 100)
        return {row.name for row in rows} - {"lane"} == {"s0", "s1", "s3", "s4", "s5"}

    await wait_until(known)


async def test_cancelled_read_cancels_no_other(
    log: Backend, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append(sample_append("s", 1))
    read, left, go = log.read, trio.Event(), trio.Event()

    async def hold(queries: Any) -> Any:
        left.set()
        await go.wait()
        return await read(queries)

    monkeypatch.setattr(log, "read", hold)
    got: list[list[str]] = []

    async def look(scope: trio.CancelScope) -> None:
        with scope:
            got.append(names((await store.read("s")).events))

    scopes = [trio.CancelScope() for _ in range(4)]
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(look, scope)
            await left.wait()
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked()
            go.set()
    assert got == [["1"]] * 3
