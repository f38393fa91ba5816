"""The role that serves requests appends and reads events; only the owner of the tables removes any."""

import pytest

from eventstore import Erased, EventStore, Head
from eventstore.postgres import PostgresBackend, PostgresOptions
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import names, read_all, sample_append
from tests.harness.databases import TestDatabase

MAY_NOT = [
    "UPDATE events SET data = '{}'",
    "UPDATE events SET at = now()",
    "DELETE FROM events",
    "TRUNCATE events",
    "DROP TABLE events",
    "ALTER TABLE events ADD COLUMN more text",
    "CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "DELETE FROM streams",
    "TRUNCATE streams",
    "UPDATE streams SET earliest = 2",
    "UPDATE streams SET name = 'other'",
    "UPDATE streams SET category = 'other'",
    "ALTER TABLE streams DROP CONSTRAINT streams_stay_erased",
    "DELETE FROM writers",
    "TRUNCATE keys",
    "UPDATE snapshots SET data = '{}'",
    "DELETE FROM snapshots",
    "UPDATE revision SET version_num = 'other'",
    "DELETE FROM revision",
    "CREATE TABLE mine (n int)",
    "CREATE OR REPLACE FUNCTION grant_to(app name) RETURNS void LANGUAGE sql AS ''",
    "SET ROLE tokentape_owner",
]
MAY = [
    "SELECT * FROM events, streams, writers, keys, snapshots, revision",
    "INSERT INTO events (stream, position, at, type, data) VALUES (1, 99, now(), 'x', '{}')",
]


@pytest.mark.parametrize("sql", MAY_NOT)
async def test_serving_role_may_not(database: TestDatabase, sql: str) -> None:
    async with sessions(database.app_url, "app") as (app,):
        with pytest.raises(DatabaseRefused) as refusal:
            await app.fetch(sql)
    assert refusal.value.sqlstate == "42501"


async def test_serving_role_may(database: TestDatabase) -> None:
    async with sessions(database.app_url, "app") as (app,):
        for sql in MAY:
            await app.fetch(sql)


async def test_serving_role_cannot_grant_itself_rights(database: TestDatabase) -> None:
    async with sessions(database.app_url, "app") as (app,):
        await app.fetch("SELECT grant_to(current_user)")  # the database warns: nothing was granted or revoked
        with pytest.raises(DatabaseRefused):
            await app.fetch("DELETE FROM events")
        for sql in MAY:
            await app.fetch(sql)


async def test_only_the_owner_trims(database: TestDatabase) -> None:
    only_app = PostgresBackend(PostgresOptions(database.app_url))
    async with EventStore(only_app).open() as store:
        await store.append(sample_append("s", 1, 2, 3))
        with pytest.raises(DatabaseRefused):
            await store.trim("s", 3)
        assert names(await read_all(store, "s")) == ["1", "2", "3"]
    with_owner = PostgresBackend(PostgresOptions(database.app_url, database.owner_url))
    async with EventStore(with_owner).open() as store:
        assert await store.trim("s", 3) == Head(3, 3)
        assert names(await read_all(store, "s", 2)) == ["3"]


async def test_only_the_owner_erases(database: TestDatabase) -> None:
    only_app = PostgresBackend(PostgresOptions(database.app_url))
    async with EventStore(only_app).open() as store:
        await store.append(sample_append("s", 1, 2, 3, category="talk"))
        with pytest.raises(DatabaseRefused) as refusal:
            await store.erase_streams("talk", -1.0)
        assert refusal.value.sqlstate == "42501"
        assert names(await read_all(store, "s")) == ["1", "2", "3"]
        assert [row.name for row in await store.list_streams("talk", None, 9)] == ["s"]
        # What passes by its category it may erase, and through that function alone.
        await store.append(sample_append("t", 1, category="ephemeral"))
        assert list(await store.erase_streams("ephemeral", -1.0)) == ["t"]
        assert names(await read_all(store, "s")) == ["1", "2", "3"]
    with_owner = PostgresBackend(PostgresOptions(database.app_url, database.owner_url))
    async with EventStore(with_owner).open() as store:
        assert list(await store.erase_streams("talk", -1.0)) == ["s"]
        with pytest.raises(Erased):
            await store.read("s")


async def test_owner_may_serve(database: TestDatabase) -> None:
    async with EventStore(PostgresBackend(PostgresOptions(database.owner_url))).open() as store:
        await store.append(sample_append("s", 1, 2, 3))
        assert await store.trim("s", 2) == Head(3, 2)
        assert await store.expire_keys() == 0
        assert list(await store.erase_streams("", -1.0)) == ["s"]
