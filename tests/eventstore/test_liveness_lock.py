"""The sign of life is an advisory lock with the owner's number: told apart in all its bits, and by database."""

import pytest

from eventstore import EventStore, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.sample_events import note, until
from tests.harness.databases import Postgres, TestDatabase

GONE = (0x1234_5678 << 32) + 0x9ABC_DEF0


def owned(database: TestDatabase, owner: int) -> EventStore:
    """A process with that number."""
    log = PostgresBackend(PostgresOptions(database.app_url))
    log.owner = owner
    return EventStore(log)


async def leave_a_writer(database: TestDatabase, owner: int = GONE) -> None:
    """A process that opens a writer and ends."""
    async with owned(database, owner).open() as gone:
        await gone.append(note("s", 1, writer=Writer("w", 1, 1)))


async def is_alive(store: EventStore) -> bool:
    """What it says of the writer's owner, in both ways of asking."""
    state = await store.writer("s", "w")
    assert state is not None
    assert state.owner_alive is not any(found.name == "w" for found in await store.open_writers())
    return state.owner_alive


async def ends(store: EventStore) -> None:
    """Until the owner is not alive: the database may notice a moment after the process has gone."""

    async def gone() -> bool:
        state = await store.writer("s", "w")
        return state is not None and not state.owner_alive

    await until(gone)
    assert not await is_alive(store)


@pytest.mark.parametrize("living", [GONE + 1, GONE ^ (1 << 31), GONE ^ (1 << 32), GONE ^ (1 << 62), 1, 2**63 - 1])
async def test_a_number_nearby_is_another_process(database: TestDatabase, living: int) -> None:
    await leave_a_writer(database)
    async with owned(database, living).open() as near:
        assert near.owner == living
        await ends(near)


@pytest.mark.parametrize("owner", [1, 2**31, 2**32 - 1, 2**32, GONE, 2**63 - 1])
async def test_any_number_shows_life(database: TestDatabase, owner: int) -> None:
    await leave_a_writer(database, owner)
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store:
        await ends(store)
        async with owned(database, owner).open():
            assert await is_alive(store)
        await ends(store)


async def test_the_same_number_on_another_database_is_nobody_here(
    postgres: Postgres, database: TestDatabase
) -> None:
    await leave_a_writer(database)
    with postgres.clone() as elsewhere:
        async with (
            EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store,
            owned(elsewhere, GONE).open(),
        ):
            await ends(store)
