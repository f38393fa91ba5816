"""A process shows that it lives by an advisory lock with its owner number; all bits of it and the database
count.
"""

import pytest

from eventstore import EventStore, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.sample_events import sample_append, wait_until
from tests.harness.databases import Postgres, TestDatabase

GONE = (0x1234_5678 << 32) + 0x9ABC_DEF0


def store_of_owner(database: TestDatabase, owner: int) -> EventStore:
    """A store of the process with that number."""
    log = PostgresBackend(PostgresOptions(database.app_url))
    log.owner = owner
    return EventStore(log)


async def leave_open_writer(database: TestDatabase, owner: int = GONE) -> None:
    """Runs a process that opens a writer and ends."""
    async with store_of_owner(database, owner).open() as gone:
        await gone.append(sample_append("s", 1, writer=Writer("w", 1, 1)))


async def owner_is_alive(store: EventStore) -> bool:
    """Whether the writer's owner lives, asked in both ways."""
    state = await store.writer("s", "w")
    assert state is not None
    assert state.owner_alive is not any(found.name == "w" for found in await store.open_writers())
    return state.owner_alive


async def wait_until_dead(store: EventStore) -> None:
    """Waits until the owner is not alive; the database may notice it a moment late."""

    async def gone() -> bool:
        state = await store.writer("s", "w")
        return state is not None and not state.owner_alive

    await wait_until(gone)
    assert not await owner_is_alive(store)


@pytest.mark.parametrize("living", [GONE + 1, GONE ^ (1 << 31), GONE ^ (1 << 32), GONE ^ (1 << 62), 1, 2**63 - 1])
async def test_similar_owner_number_is_another_process(database: TestDatabase, living: int) -> None:
    await leave_open_writer(database)
    async with store_of_owner(database, living).open() as near:
        assert near.owner == living
        await wait_until_dead(near)


@pytest.mark.parametrize("owner", [1, 2**31, 2**32 - 1, 2**32, GONE, 2**63 - 1])
async def test_any_owner_number_shows_life(database: TestDatabase, owner: int) -> None:
    await leave_open_writer(database, owner)
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store:
        await wait_until_dead(store)
        async with store_of_owner(database, owner).open():
            assert await owner_is_alive(store)
        await wait_until_dead(store)


async def test_same_owner_number_on_another_database_does_not_count(
    postgres: Postgres, database: TestDatabase
) -> None:
    await leave_open_writer(database)
    with postgres.clone() as elsewhere:
        async with (
            EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store,
            store_of_owner(elsewhere, GONE).open(),
        ):
            await wait_until_dead(store)
