"""The role that serves adds files and uses, and takes away nothing that a conversation uses."""

import pytest

import migrations
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from server.files.file_store import FileStore
from server.files.postgres_file_store import PostgresFileStore
from tests.eventstore.connections import sessions
from tests.files.conftest import TENANT, digest_of, files_in_postgres
from tests.harness.databases import Postgres, TestDatabase

MAY_NOT = [
    "DELETE FROM tokentape_files.files",
    "UPDATE tokentape_files.files SET tenant = 'other'",
    "UPDATE tokentape_files.files SET upload = 'other'",
    "UPDATE tokentape_files.files SET media_type = 'text/html'",
    "UPDATE tokentape_files.files SET expires_at = 'infinity'",
    "INSERT INTO tokentape_files.files (tenant, digest, upload, media_type, size, expires_at) "
    "VALUES ('acme', repeat('0', 64), 'u', 'text/html', 1, 'infinity')",
    "UPDATE tokentape_files.chunks SET data = ''",
    "DELETE FROM tokentape_files.chunks",
    "DELETE FROM tokentape_files.uploads",
    "DELETE FROM tokentape_files.uses",
    "UPDATE tokentape_files.uses SET conversation = 'conv_other'",
    "TRUNCATE tokentape_files.files, tokentape_files.uses",
    "DROP TABLE tokentape_files.uses",
    "CREATE TABLE tokentape_files.mine (n int)",
]


@pytest.mark.parametrize("sql", MAY_NOT)
async def test_the_serving_role_may_not(database: TestDatabase, sql: str) -> None:
    async with sessions(database.app_url, "app") as (app,):
        with pytest.raises(DatabaseRefused) as refusal:
            await app.fetch(sql)
    assert refusal.value.sqlstate == "42501"


async def test_it_takes_away_no_file_in_use(postgres: Postgres, database: TestDatabase) -> None:
    """By none of the functions that remove, whatever it wrote before."""
    files = files_in_postgres(postgres, database)
    async with files.store.open(), sessions(database.app_url, "app") as (app,):
        await files.upload(b"in use")
        await files.used("conv_1", [digest_of(b"in use")])
        upload = (await app.fetch("SELECT upload FROM tokentape_files.files"))[0]["upload"]
        for sql in (
            "UPDATE tokentape_files.files SET sweep_at = '-infinity'",
            f"SELECT tokentape_files.drop_upload('{upload}')",
            "SELECT tokentape_files.release(ARRAY['conv_1'], -1e6)",
            f"INSERT INTO tokentape_files.uploads (name, touched_at) VALUES ('{upload}', '-infinity')",
            "SELECT tokentape_files.sweep(100, -1e6)",
        ):
            await app.fetch(sql)
        assert await files.has(b"in use")


async def test_the_owner_may_serve_by_itself(database: TestDatabase) -> None:
    store: FileStore = PostgresFileStore(database.owner_url)
    async with store.open():
        await store.add_chunk("u", 0, b"x")
        await store.finish_upload("u", TENANT, digest_of(b"x"), "text/plain", 1, 60)
        assert await store.read(TENANT, digest_of(b"x")) == b"x"


async def test_going_back_takes_it_away_and_coming_again_makes_it_anew(postgres: Postgres) -> None:
    schema = "SELECT count(*) FROM pg_namespace WHERE nspname = 'tokentape_files'"
    with postgres.clone() as copy:
        await migrations.downgrade(copy.owner_url, "0006")
        assert postgres.sql(schema, copy.name) == "0"
        with pytest.raises(DatabaseRefused):
            async with PostgresFileStore(copy.app_url).open():
                pass
        await migrations.upgrade(copy.owner_url, app_role="tokentape_app")
        async with PostgresFileStore(copy.app_url).open():
            pass
