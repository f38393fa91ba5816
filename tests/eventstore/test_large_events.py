"""Large events: a page is bounded in bytes and in number, holds at least one event, and skips none."""

import json
import random
from itertools import pairwise

import pytest

from eventstore import Append, EventStore, NewEvent, StoreOptions
from eventstore.postgres import PostgresBackend, PostgresOptions, postgres_backend
from tests.eventstore.sample_events import BOUND, read_all, take
from tests.harness.databases import TestDatabase

BYTES = 20_000
SIZES = [10, 500, 3_000, 8_000, 50_000, 10, 10, 30_000, 6_000, 6_000, 6_000, 6_000, 100, 100, 19_000, 900, 90_000]


def large_event(n: int, size: int) -> NewEvent:
    """An event of about `size` bytes that the database cannot compress."""
    return NewEvent("noted", json.dumps({"n": n, "text": random.Random(n).randbytes(size // 2).hex()}))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a batch of reads return few bytes."""
    monkeypatch.setattr(postgres_backend, "READ_BYTES", BYTES)


@pytest.mark.usefixtures("small_batches")
async def test_pages_are_bounded_and_skip_nothing(database: TestDatabase) -> None:
    new = tuple(large_event(n, size) for n, size in enumerate(SIZES))
    options = StoreOptions(call_timeout=BOUND, safety_poll=600.0, tail_stream_bytes=1)
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), options).open() as store,
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), options).open() as other,
    ):
        await store.append(Append("s", new))
        pages = []
        after = 0
        while page := (await store.read("s", after)).events:
            pages.append([len(one.data) for one in page])
            after = page[-1].position
        assert [size for page in pages for size in page] == [len(one.data) for one in new]
        # The bound is met, or missed by the one event with which it was reached.
        assert all(sum(page[:-1]) < BYTES for page in pages)
        assert all(sum(page) + following[0] > BYTES / 2 for page, following in pairwise(pages))
        for process in (store, other):
            with process.subscribe("s") as reader:
                assert [one.data for one in await take(reader, len(SIZES))] == [one.data for one in new]
        with other.subscribe("s", len(SIZES)) as reader:
            await store.append(Append("s", new))
            assert [one.data for one in await take(reader, len(SIZES))] == [one.data for one in new]
        assert len(await read_all(other, "s")) == 2 * len(SIZES)
