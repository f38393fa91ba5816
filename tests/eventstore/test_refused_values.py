"""A value that cannot be stored, among good ones: only its own call fails, at once, and the connection stays.

What the driver cannot encode is never sent; what the server refuses comes back as an error of the whole
batch.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import trio

from eventstore import Append, EventStore, Key, NewEvent, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions, postgres_backend
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from tests.eventstore.sample_events import BOUND, case, names, read_all, sample_append
from tests.eventstore.test_db_connection import pids_by_name
from tests.harness.databases import Postgres, TestDatabase

SURROGATE = "\ud800"


@pytest.fixture
async def store(database: TestDatabase) -> AsyncIterator[EventStore]:
    async with EventStore(
        PostgresBackend(PostgresOptions(database.app_url)), StoreOptions(call_timeout=BOUND)
    ).open() as store:
        yield store


def sample_event(**changes: str) -> Append:
    return Append("bad", (NewEvent(**{"type": "t", "data": "{}", **changes}),))


BAD: dict[str, Append] = {
    "a surrogate in the data": sample_event(data=f'"{SURROGATE}"'),
    "a surrogate in the type": sample_event(type=SURROGATE),
    "a surrogate in the tag": sample_event(tag=SURROGATE),
    "a surrogate in the stream": Append(SURROGATE, sample_event().events),
    "a surrogate in the category": Append("bad", sample_event().events, category=SURROGATE),
    "a surrogate in the writer": Append("bad", sample_event().events, writer=Writer(SURROGATE, 1, 1)),
    "U+0000 in the type": sample_event(type="\0"),
    "U+0000 in the stream": Append("\0", sample_event().events),
    "data that is no JSON": sample_event(data="{"),
    "an epoch of 65 bits": Append("bad", sample_event().events, writer=Writer("w", 2**64, 1)),
    "an epoch of 33 bits": Append("bad", sample_event().events, writer=Writer("w", 2**32, 1)),
    "a sequence of 65 bits": Append("bad", sample_event().events, writer=Writer("w", 1, 2**64)),
    "an expected position of 65 bits": Append("bad", sample_event().events, expected=2**64),
    "a key kept for ever and ever": Append("bad", sample_event().events, keys=(Key("k", "k", b"", 1e300),)),
}


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "among others"])
async def test_unstorable_append_fails_alone(
    store: EventStore, postgres: Postgres, database: TestDatabase, alone: bool
) -> None:
    async def fail(append: Append) -> None:
        with trio.fail_after(BOUND / 2), pytest.raises(DatabaseRefused):
            await store.append(append)

    await store.append(sample_append("warm", 1))
    before = pids_by_name(postgres, database)["appends"]
    for what, bad in BAD.items():
        neighbours = [] if alone else [f"{what} {n}" for n in range(20)]
        with case(what):
            async with trio.open_nursery() as nursery:
                for stream in neighbours[:10]:
                    nursery.start_soon(store.append, sample_append(stream, "good"))
                nursery.start_soon(fail, bad)
                for stream in neighbours[10:]:
                    nursery.start_soon(store.append, sample_append(stream, "good"))
            for stream in neighbours:
                assert names(await read_all(store, stream)) == ["good"]
            # The connection is the same: nothing was lost.
            assert before <= pids_by_name(postgres, database)["appends"]
            assert store.stats().failures == {}


async def test_unstorable_append_is_found_by_halving_the_batch(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    send = PostgresBackend._send

    async def counted(log: PostgresBackend, session: object, batch: list[Append]) -> object:
        sent.append(len(batch))
        return await send(log, session, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresBackend, "_send", counted)
    inner = store._backend
    batch = [*(sample_append(f"s{n}", "good") for n in range(255)), sample_event(data="{")]
    answers = await inner.append(batch)
    assert isinstance(answers[-1], DatabaseRefused)
    assert not any(isinstance(answer, Exception) for answer in answers[:-1])
    assert len(sent) <= 2 * 8 + 1  # not one by one


POINTS: dict[str, Callable[[EventStore], object]] = {
    "find_key": lambda store: store.find_key("k", SURROGATE),
    "load_snapshot": lambda store: store.load_snapshot("s", SURROGATE, 1),
    "load_snapshot, a position": lambda store: store.load_snapshot("s", "f", 2**64),
    "writer": lambda store: store.writer("s", SURROGATE),
    "head": lambda store: store.head(SURROGATE),
    "read": lambda store: store.read(SURROGATE),
}


@pytest.mark.parametrize("what", POINTS)
async def test_unstorable_query_fails_alone(store: EventStore, what: str) -> None:
    await store.append(sample_append("s", 1))
    good = {
        "find_key": lambda: store.find_key("k", "k"),
        "load_snapshot": lambda: store.load_snapshot("s", "f", 1),
        "writer": lambda: store.writer("s", "w"),
        "head": lambda: store.head("s"),
        "read": lambda: store.read("s"),
    }[what.partition(",")[0]]

    async def bad() -> None:
        with trio.fail_after(BOUND / 2), pytest.raises(DatabaseRefused):
            await POINTS[what](store)  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(good)
        nursery.start_soon(good)
        nursery.start_soon(bad)
        nursery.start_soon(good)
    assert store.stats().failures == {}


async def test_unknown_verdict_fails_only_its_append(
    database: TestDatabase, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody changed the SQL function under a running server: whether it appended is unknown."""
    monkeypatch.setattr(
        postgres_backend,
        "_VERDICTS",
        {k: v for k, v in postgres_backend._VERDICTS.items() if k != "wrong_position"},
    )
    options = replace(StoreOptions(), call_timeout=1.0)
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url)), options).open() as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append, sample_append("a", 1))

            async def strange() -> None:
                with pytest.raises(StoreUnavailable):
                    await store.append(sample_append("b", 1, expected=7))

            nursery.start_soon(strange)
            nursery.start_soon(store.append, sample_append("c", 1))
        await store.append(sample_append("a", 2))
        assert names(await read_all(store, "a")) == ["1", "2"]
