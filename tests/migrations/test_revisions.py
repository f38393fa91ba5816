"""The revisions: up, down and up again, from several tasks, by the right roles, and plain errors for the
wrong ones.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import trio
from alembic.script import ScriptDirectory

import migrations
from eventstore import Erased, EventStore, StoreUnavailable
from eventstore.postgres import PostgresBackend, PostgresOptions, postgres_backend, schema_revision
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from tests.eventstore.sample_events import names, read_all, sample_append
from tests.harness.databases import Postgres, TestDatabase
from tests.migrations.refresh import SCHEMA, dump_schema

APP = "tokentape_app"


async def assert_works(database: TestDatabase, stream: str = "s") -> None:
    """A store opens on the database, appends and reads."""
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url, database.owner_url))).open() as store:
        await store.append(sample_append(stream, 1, 2))
        await store.trim(stream, 2)
        assert names(await read_all(store, stream, 1)) == ["2"]


def append_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends as servers did before the SQL function had a version number."""
    for name in ("_APPEND", "_APPEND_TEXTS", "_APPEND_DURING"):
        monkeypatch.setattr(
            postgres_backend, name, getattr(postgres_backend, name).replace("append_1(", "append(")
        )


async def test_upgrade_downgrade_upgrade(postgres: Postgres, empty: TestDatabase) -> None:
    picture = SCHEMA.read_text(encoding="utf-8")
    for _ in range(2):
        assert await schema_revision(empty.owner_url) is None
        await migrations.upgrade(empty.owner_url, app_role=APP)
        assert await schema_revision(empty.owner_url) == await schema_revision(empty.app_url) == migrations.HEAD
        assert dump_schema(postgres.embedded.bin_dir, empty.owner_url) == picture
        await assert_works(empty)
        await migrations.downgrade(empty.owner_url)
    left = postgres.sql("SELECT relname FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace", empty.name)
    assert set(left.split()) == {"revision", "revision_pkc"}
    assert not postgres.sql(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace", empty.name
    )


async def test_second_upgrade_changes_nothing(empty: TestDatabase) -> None:
    await migrations.upgrade(empty.owner_url, app_role=APP)
    await assert_works(empty)
    await migrations.upgrade(empty.owner_url, app_role=APP)
    async with EventStore(PostgresBackend(PostgresOptions(empty.app_url))).open() as store:
        assert names(await read_all(store, "s", 1)) == ["2"]


async def test_upgrades_keep_all_events(
    postgres: Postgres, empty: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_as_before(monkeypatch)
    await migrations.upgrade(empty.owner_url, app_role=APP, revision="0001")
    await assert_works(empty)
    for again in (False, True):
        if again:
            monkeypatch.undo()
        await migrations.upgrade(empty.owner_url, app_role=APP)
        assert dump_schema(postgres.embedded.bin_dir, empty.owner_url) == SCHEMA.read_text(encoding="utf-8")
        async with EventStore(PostgresBackend(PostgresOptions(empty.app_url, empty.owner_url))).open() as store:
            assert names(await read_all(store, "s", 1)) == ["2"]
            await store.append(sample_append("gone", 1, category="talk"))
            await store.erase_streams("talk", -1.0)
            with pytest.raises(Erased):
                await store.append(sample_append("gone", 2))
        # Back there, that stream is one that was trimmed; nothing of it can be read.
        await migrations.downgrade(empty.owner_url, "0001")
        assert (
            postgres.sql("SELECT count(*) FROM eventstore.streams WHERE last_at = 'infinity'", empty.name) == "0"
        )
        postgres.sql("DELETE FROM eventstore.streams WHERE name = 'gone'", empty.name)


async def test_concurrent_upgrades(empty: TestDatabase) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: migrations.upgrade(empty.owner_url, app_role=APP))
    assert await schema_revision(empty.app_url) == migrations.HEAD
    await assert_works(empty)


async def test_owner_need_not_be_superuser(postgres: Postgres, empty: TestDatabase) -> None:
    assert postgres.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'tokentape_owner'") == "f"
    await migrations.upgrade(empty.owner_url)
    owner = TestDatabase(empty.name, empty.owner_url, empty.owner_url)
    await assert_works(owner)


async def test_serving_owner_keeps_its_rights(empty: TestDatabase) -> None:
    await migrations.upgrade(empty.owner_url, app_role="tokentape_owner")
    await assert_works(TestDatabase(empty.name, empty.owner_url, empty.owner_url))


async def test_no_other_role_may_serve_without_app_role(empty: TestDatabase) -> None:
    await migrations.upgrade(empty.owner_url)
    with pytest.raises(DatabaseRefused):
        await assert_works(empty)
    assert await schema_revision(empty.app_url) is None


@pytest.mark.parametrize("migrated", [False, True])
async def test_role_without_rights_is_refused(empty: TestDatabase, migrated: bool) -> None:
    if migrated:
        await migrations.upgrade(empty.owner_url, app_role=APP)
    if migrated:
        await migrations.upgrade(empty.app_url)  # there is nothing to do
    for act in (migrations.downgrade,) if migrated else (migrations.upgrade, migrations.downgrade):
        with pytest.raises(DatabaseRefused) as refusal:
            await act(empty.app_url)
        assert refusal.value.sqlstate == "42501"
        assert "permission denied" in str(refusal.value)
    assert await schema_revision(empty.owner_url) == (migrations.HEAD if migrated else None)


async def test_unknown_role_is_refused(empty: TestDatabase) -> None:
    with pytest.raises(DatabaseRefused, match="nobody"):
        await migrations.upgrade(empty.owner_url, app_role="nobody")
    with pytest.raises(DatabaseRefused, match="nobody"):
        await migrations.upgrade(empty.owner_url.replace("tokentape_owner", "nobody"))


async def test_unreachable_database(empty: TestDatabase) -> None:
    for act in (migrations.upgrade, migrations.downgrade):
        with pytest.raises(StoreUnavailable):
            await act("postgresql://x@/x?host=/nowhere")


async def test_failed_upgrade_is_rolled_back(postgres: Postgres, empty: TestDatabase) -> None:
    postgres.sql("CREATE SCHEMA eventstore AUTHORIZATION tokentape_owner", empty.name)
    postgres.sql("CREATE TABLE eventstore.snapshots (n int)", empty.name)  # in the way of the fifth table
    with pytest.raises(DatabaseRefused, match="snapshots"):
        await migrations.upgrade(empty.owner_url, app_role=APP)
    left = postgres.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace AND relkind = 'r'",
        empty.name,
    )
    assert left == "snapshots"


def test_known_revisions_equal_alembics() -> None:
    """By their file names; a server that only compares versions imports no migration code."""
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_current_head() == migrations.HEAD
    assert tuple(one.revision for one in script.walk_revisions()) == migrations.revisions()
    loaded = "[name for name in ('alembic', 'sqlalchemy') if name in sys.modules]"
    program = f"import sys, server.process.lifecycle; print({loaded})"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
