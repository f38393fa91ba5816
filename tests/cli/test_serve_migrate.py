"""`tokentape serve --migrate` on an empty, older, current or newer database."""

import secrets
from collections.abc import Iterator

import pytest
import trio

import migrations
from tests.cli.command_runner import tokentape
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running

MIGRATED = "database migrated"


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A database without even the schema."""
    name = f"empty_{secrets.token_hex(6)}"
    postgres.sql(f"CREATE DATABASE {name} OWNER tokentape_owner")
    try:
        yield TestDatabase(
            name,
            postgres.embedded.app_url.replace("/tokentape?", f"/{name}?"),
            postgres.embedded.owner_url.replace("/tokentape?", f"/{name}?"),
        )
    finally:
        postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


def _migrated(server: Server) -> list[tuple[object, object]]:
    lines = [line for line in server.log_lines() if line["event"] == MIGRATED]
    return [(line["before"], line["after"]) for line in lines]


async def _check_works(server: Server) -> None:
    async with http_client(server.url) as client:
        assert (await client.post("/v1/conversations", json={"title": "t"})).status_code == 201


async def test_empty_database_without_migrate_names_both_remedies(empty_database: TestDatabase) -> None:
    done = await tokentape("serve", "--bind", "127.0.0.1:0", "--database-url", empty_database.app_url)
    assert done.status == 1
    assert "The database is empty" in done.err
    assert "`tokentape migrate`" in done.err
    assert "--migrate (TOKENTAPE_MIGRATE=true)" in done.err


@pytest.mark.parametrize("before", ["empty", "0001"])
async def test_owner_role_migrates_and_app_role_serves(before: str, empty_database: TestDatabase) -> None:
    """The app's role gets its rights and no others; a second start migrates nothing."""
    if before != "empty":
        await migrations.upgrade(empty_database.owner_url, app_role="tokentape_app", revision=before)
    env = {"TOKENTAPE_DATABASE_OWNER_URL": empty_database.owner_url, "TOKENTAPE_MIGRATE": "true"}
    async with running(empty_database.app_url, env) as server:
        assert _migrated(server) == [(before, migrations.HEAD)]
        await _check_works(server)
        assert await server.stop() == 0
        await server.start()
        assert len(_migrated(server)) == 1
        await _check_works(server)


async def test_one_role_may_migrate_and_serve(empty_database: TestDatabase) -> None:
    async with running(empty_database.owner_url, {"TOKENTAPE_MIGRATE": "1"}) as server:
        assert _migrated(server) == [("empty", migrations.HEAD)]
        await _check_works(server)


async def test_current_database_needs_no_owner_role(database: TestDatabase) -> None:
    """The setting may stay on servers that only have the app's role."""
    async with running(database.app_url, {"TOKENTAPE_MIGRATE": "1"}) as server:
        assert _migrated(server) == []
        await _check_works(server)


async def test_two_servers_started_together_migrate_once(empty_database: TestDatabase) -> None:
    """One migrates, the other waits, and both serve."""
    env = {"TOKENTAPE_DATABASE_OWNER_URL": empty_database.owner_url, "TOKENTAPE_MIGRATE": "true"}
    servers = [Server(empty_database.app_url, env), Server(empty_database.app_url, env)]
    try:
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(server.start)
        assert sorted(len(_migrated(server)) for server in servers) == [0, 1]
        for server in servers:
            await _check_works(server)
    finally:
        for server in servers:
            if server.process is not None:
                server.process.kill()
                server.process.wait()
            server.log.close()


async def test_missing_right_to_migrate_is_reported(empty_database: TestDatabase) -> None:
    done = await tokentape("serve", "--migrate", "--bind", "127.0.0.1:0", "--database-url", empty_database.app_url)
    assert done.status == 1
    assert "could not be migrated: permission denied" in done.err
    assert "TOKENTAPE_DATABASE_OWNER_URL" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", [("serve", "--migrate", "--bind", "127.0.0.1:0"), ("migrate",)])
async def test_incompatible_newer_database_is_refused(
    command: tuple[str, ...], database: TestDatabase, postgres: Postgres
) -> None:
    """By `serve --migrate` and by `migrate`, in the same words."""
    postgres.sql("UPDATE eventstore.revision SET version_num = '9999'", database.name)
    postgres.sql("UPDATE eventstore.compatible SET since = '9998'", database.name)
    done = await tokentape(
        *command, "--database-url", database.app_url, "--database-owner-url", database.owner_url
    )
    assert done.status == 1
    assert "revision 9999" in done.err
    assert "newer Tokentape" in done.err
    assert "Traceback" not in done.err
    assert postgres.sql("SELECT version_num FROM eventstore.revision", database.name) == "9999"


@pytest.mark.parametrize("migrate", [False, True])
async def test_compatible_newer_database_is_served_unchanged(
    database: TestDatabase, postgres: Postgres, migrate: bool
) -> None:
    """Old servers may be restarted between `migrate` and the new version."""
    postgres.sql("UPDATE eventstore.revision SET version_num = '9999'", database.name)
    assert postgres.sql("SELECT since FROM eventstore.compatible", database.name) in migrations.revisions()
    env = {"TOKENTAPE_MIGRATE": "1", "TOKENTAPE_DATABASE_OWNER_URL": database.owner_url} if migrate else {}
    async with running(database.app_url, env) as server:
        assert _migrated(server) == []
        await _check_works(server)
    assert postgres.sql("SELECT version_num FROM eventstore.revision", database.name) == "9999"
