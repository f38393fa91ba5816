"""The role that serves signs people in and out; only the owner of the tables makes, changes or revokes a key."""

import pytest

import migrations
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from server.auth.auth_store import Origin
from server.auth.credentials import generate
from server.auth.postgres_auth_store import PostgresAuthStore
from server.auth.principal import ALL_SCOPES
from tests.eventstore.connections import sessions
from tests.harness.databases import Postgres, TestDatabase

MAY_NOT = [
    "INSERT INTO tokentape_auth.keys (hash, id, tenant, scopes) VALUES ('\\x00', 'key', 'acme', '{read}')",
    "UPDATE tokentape_auth.keys SET revoked_at = NULL",
    "UPDATE tokentape_auth.keys SET scopes = '{admin}'",
    "UPDATE tokentape_auth.keys SET expires_at = NULL",
    "UPDATE tokentape_auth.keys SET limits = ''",
    "TRUNCATE tokentape_auth.servers",
    "DELETE FROM tokentape_auth.keys",
    "TRUNCATE tokentape_auth.keys",
    "UPDATE tokentape_auth.sessions SET scopes = '{admin}'",
    "UPDATE tokentape_auth.sessions SET tenant = 'other'",
    "UPDATE tokentape_auth.sessions SET expires_at = 'infinity'",
    "UPDATE tokentape_auth.tickets SET scopes = '{admin}'",
    "UPDATE tokentape_auth.tickets SET stream = 'conv_other'",
    "UPDATE tokentape_auth.tickets SET ends_at = 'infinity'",
    "TRUNCATE tokentape_auth.sessions",
    "TRUNCATE tokentape_auth.tickets",
    "DROP TABLE tokentape_auth.usage",
    "ALTER TABLE tokentape_auth.keys ADD COLUMN more text",
    "CREATE TABLE tokentape_auth.mine (n int)",
    "CREATE OR REPLACE FUNCTION tokentape_auth.grant_to(app name) RETURNS void LANGUAGE sql AS ''",
]


@pytest.mark.parametrize("sql", MAY_NOT)
async def test_the_serving_role_may_not(database: TestDatabase, sql: str) -> None:
    async with sessions(database.app_url, "app") as (app,):
        with pytest.raises(DatabaseRefused) as refusal:
            await app.fetch(sql)
    assert refusal.value.sqlstate == "42501"


async def test_the_serving_role_makes_no_key_and_revokes_none(database: TestDatabase) -> None:
    app, owner = PostgresAuthStore(database.app_url), PostgresAuthStore(database.owner_url)
    async with app.open(), owner.open():
        key = generate("key")
        with pytest.raises(DatabaseRefused, match="permission denied"):
            await app.add_key(key, "acme", "", ALL_SCOPES, None)
        await owner.add_key(key, "acme", "", ALL_SCOPES, None)
        with pytest.raises(DatabaseRefused, match="permission denied"):
            await app.revoke_key(key.id)
        assert [row.id for row in await app.list_keys()] == [key.id]


async def test_the_serving_role_grants_itself_nothing(database: TestDatabase) -> None:
    async with sessions(database.app_url, "app") as (app,):
        await app.fetch("SELECT tokentape_auth.grant_to(current_user)")
        with pytest.raises(DatabaseRefused):
            await app.fetch("DELETE FROM tokentape_auth.keys")
        await app.fetch("DELETE FROM tokentape_auth.sessions")


async def test_the_owner_may_serve_by_itself(database: TestDatabase) -> None:
    store = PostgresAuthStore(database.owner_url)
    async with store.open():
        key, session = generate("key"), generate("ses")
        await store.add_key(key, "acme", "", ALL_SCOPES, None)
        await store.add_session(session, Origin("acme", key.id, ALL_SCOPES, key=key.hash), 60)
        assert await store.find(session.hash) is not None


async def test_going_back_takes_it_away_and_coming_again_makes_it_anew(
    postgres: Postgres, database: TestDatabase
) -> None:
    schema = "SELECT count(*) FROM pg_namespace WHERE nspname = 'tokentape_auth'"
    with postgres.clone() as copy:
        await migrations.downgrade(copy.owner_url, "0004")
        assert postgres.sql(schema, copy.name) == "0"
        with pytest.raises(DatabaseRefused):
            async with PostgresAuthStore(copy.app_url).open():
                pass
        await migrations.upgrade(copy.owner_url, app_role="tokentape_app")
        assert postgres.sql(schema, copy.name) == "1"
        async with PostgresAuthStore(copy.app_url).open():
            pass


async def test_no_credential_is_stored(postgres: Postgres, database: TestDatabase) -> None:
    app, owner = PostgresAuthStore(database.app_url), PostgresAuthStore(database.owner_url)
    made = [generate("key"), generate("ses"), generate("tick")]
    key, session, ticket = made
    origin = Origin("acme", key.id, ALL_SCOPES, key=key.hash)
    async with app.open(), owner.open():
        await owner.add_key(key, "acme", "", ALL_SCOPES, None)
        await app.add_session(session, origin, 60)
        await app.add_ticket(ticket, origin, "conv_1", "sse", 60, 60)
        await app.use_ticket(ticket.hash, b"r" * 32, False)
    for table in ("keys", "sessions", "tickets", "usage"):
        rows = postgres.sql(f"SELECT t::text FROM tokentape_auth.{table} t", database.name)
        for one in made:
            assert one.text[-43:] not in rows
