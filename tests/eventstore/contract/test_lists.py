"""Lists of streams by category, and stored snapshots."""

import pytest

from eventstore import EventStore, Snapshot
from tests.eventstore.sample_events import sample_append


async def test_streams_of_a_category_newest_first(store: EventStore, other: EventStore) -> None:
    for n in range(7):
        await (store, other)[n % 2].append(sample_append(f"s{n}", "first", category="talk"))
        await store.append(sample_append(f"else{n}", 1, category="other"))
    await store.append(sample_append("s3", "second", category="is ignored: the stream has one"))
    rows = await other.list_streams("talk", None, 100)
    assert [row.name for row in rows] == [f"s{n}" for n in reversed(range(7))]
    assert [row.head for row in rows] == [1, 1, 1, 2, 1, 1, 1]
    assert [row.order for row in rows] == sorted({row.order for row in rows}, reverse=True)
    for row in rows:
        first = await store.read_one(row.name, 1)
        assert first is not None
        assert row.created_at <= first.at


async def test_list_in_pages(store: EventStore) -> None:
    for n in range(7):
        await store.append(sample_append(f"s{n}", 1, category="talk"))
    seen: list[str] = []
    before = None
    while rows := await store.list_streams("talk", before, 3):
        assert len(rows) <= 3
        seen += [row.name for row in rows]
        before = rows[-1].order
        await store.append(sample_append(f"newer {before}", 1, category="talk"))  # does not shift the pages
    assert seen == [f"s{n}" for n in reversed(range(7))]


async def test_empty_category(store: EventStore) -> None:
    await store.append(sample_append("s", 1))
    assert await store.list_streams("talk", None, 10) == []
    assert [row.name for row in await store.list_streams("", None, 10)] == ["s"]


async def test_newest_snapshot_at_or_before_a_position(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", *range(10)))
    for position in (3, 7, 5):
        await store.save_snapshot("s", "fold", Snapshot(position, f'{{"at": {position}, "ä": "漢"}}'))
    await store.save_snapshot("s", "another", Snapshot(6, "{}"))
    found = {at_most: await other.load_snapshot("s", "fold", at_most) for at_most in range(11)}
    kept = {at: snapshot.position for at, snapshot in found.items() if snapshot is not None}
    assert kept == {3: 3, 4: 3, 5: 5, 6: 5, 7: 7, 8: 7, 9: 7, 10: 7}
    assert found[10] == Snapshot(7, '{"at": 7, "ä": "漢"}')


async def test_first_snapshot_at_a_position_stays(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1))
    await store.save_snapshot("s", "fold", Snapshot(1, '"first"'))
    await other.save_snapshot("s", "fold", Snapshot(1, '"second"'))
    assert await other.load_snapshot("s", "fold", 1) == Snapshot(1, '"first"')


@pytest.mark.parametrize("stream", ["s", "nowhere"])
async def test_missing_snapshot(store: EventStore, stream: str) -> None:
    await store.append(sample_append("s", 1))
    await store.save_snapshot("nowhere", "fold", Snapshot(1, "{}"))
    await store.save_snapshot("s", "another", Snapshot(1, "{}"))
    assert await store.load_snapshot(stream, "fold", 100) is None


async def test_snapshot_ahead_of_the_log_is_not_stored(store: EventStore) -> None:
    """It belongs to a history that was rewound; once the log is longer it would be taken for valid."""
    await store.append(sample_append("s", 1, 2))
    await store.save_snapshot("s", "fold", Snapshot(3, '"of another past"'))
    await store.append(sample_append("s", 3, 4))
    assert await store.load_snapshot("s", "fold", 4) is None
