"""The revisions run: up, down and up again, from two tasks at once, by whoever may, and else with a plain word."""

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
from tests.eventstore.sample_events import names, note, whole
from tests.harness.databases import Postgres, TestDatabase
from tests.migrations.refresh import SCHEMA, dumped

APP = "tokentape_app"


async def works(database: TestDatabase, stream: str = "s") -> None:
    """A store opens on it, appends and reads."""
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url, database.owner_url))).open() as store:
        await store.append(note(stream, 1, 2))
        await store.trim(stream, 2)
        assert names(await whole(store, stream, 1)) == ["2"]


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers append as those did that knew no number of the function."""
    for name in ("_APPEND", "_APPEND_TEXTS", "_APPEND_DURING"):
        monkeypatch.setattr(
            postgres_backend, name, getattr(postgres_backend, name).replace("append_1(", "append(")
        )


async def test_up_down_and_up_again(postgres: Postgres, empty: TestDatabase) -> None:
    picture = SCHEMA.read_text(encoding="utf-8")
    for _ in range(2):
        assert await schema_revision(empty.owner_url) is None
        await migrations.upgrade(empty.owner_url, app_role=APP)
        assert await schema_revision(empty.owner_url) == await schema_revision(empty.app_url) == migrations.HEAD
        assert dumped(postgres.embedded.bin_dir, empty.owner_url) == picture
        await works(empty)
        await migrations.downgrade(empty.owner_url)
    left = postgres.sql("SELECT relname FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace", empty.name)
    assert set(left.split()) == {"revision", "revision_pkc"}
    assert not postgres.sql(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace", empty.name
    )


async def test_again_changes_nothing_and_keeps_all(empty: TestDatabase) -> None:
    await migrations.upgrade(empty.owner_url, app_role=APP)
    await works(empty)
    await migrations.upgrade(empty.owner_url, app_role=APP)
    async with EventStore(PostgresBackend(PostgresOptions(empty.app_url))).open() as store:
        assert names(await whole(store, "s", 1)) == ["2"]


async def test_from_the_first_one_on_all_is_kept(
    postgres: Postgres, empty: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_before(monkeypatch)
    await migrations.upgrade(empty.owner_url, app_role=APP, revision="0001")
    await works(empty)
    for again in (False, True):
        if again:
            monkeypatch.undo()
        await migrations.upgrade(empty.owner_url, app_role=APP)
        assert dumped(postgres.embedded.bin_dir, empty.owner_url) == SCHEMA.read_text(encoding="utf-8")
        async with EventStore(PostgresBackend(PostgresOptions(empty.app_url, empty.owner_url))).open() as store:
            assert names(await whole(store, "s", 1)) == ["2"]
            await store.append(note("gone", 1, category="talk"))
            await store.erase_streams("talk", -1.0)
            with pytest.raises(Erased):
                await store.append(note("gone", 2))
        # Back there, that stream is one that was trimmed; nothing of it can be read.
        await migrations.downgrade(empty.owner_url, "0001")
        assert (
            postgres.sql("SELECT count(*) FROM eventstore.streams WHERE last_at = 'infinity'", empty.name) == "0"
        )
        postgres.sql("DELETE FROM eventstore.streams WHERE name = 'gone'", empty.name)


async def test_from_several_at_once(empty: TestDatabase) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: migrations.upgrade(empty.owner_url, app_role=APP))
    assert await schema_revision(empty.app_url) == migrations.HEAD
    await works(empty)


async def test_the_owner_is_no_superuser(postgres: Postgres, empty: TestDatabase) -> None:
    assert postgres.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'tokentape_owner'") == "f"
    await migrations.upgrade(empty.owner_url)
    owner = TestDatabase(empty.name, empty.owner_url, empty.owner_url)
    await works(owner)


async def test_the_owner_that_serves_by_itself_keeps_its_rights(empty: TestDatabase) -> None:
    await migrations.upgrade(empty.owner_url, app_role="tokentape_owner")
    await works(TestDatabase(empty.name, empty.owner_url, empty.owner_url))


async def test_without_a_role_to_serve_nobody_else_may(empty: TestDatabase) -> None:
    await migrations.upgrade(empty.owner_url)
    with pytest.raises(DatabaseRefused):
        await works(empty)
    assert await schema_revision(empty.app_url) is None


@pytest.mark.parametrize("migrated", [False, True])
async def test_a_role_that_may_not(empty: TestDatabase, migrated: bool) -> None:
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


async def test_a_role_that_does_not_exist(empty: TestDatabase) -> None:
    with pytest.raises(DatabaseRefused, match="nobody"):
        await migrations.upgrade(empty.owner_url, app_role="nobody")
    with pytest.raises(DatabaseRefused, match="nobody"):
        await migrations.upgrade(empty.owner_url.replace("tokentape_owner", "nobody"))


async def test_nobody_there(empty: TestDatabase) -> None:
    for act in (migrations.upgrade, migrations.downgrade):
        with pytest.raises(StoreUnavailable):
            await act("postgresql://x@/x?host=/nowhere")


async def test_what_fails_leaves_nothing_half_done(postgres: Postgres, empty: TestDatabase) -> None:
    postgres.sql("CREATE SCHEMA eventstore AUTHORIZATION tokentape_owner", empty.name)
    postgres.sql("CREATE TABLE eventstore.snapshots (n int)", empty.name)  # in the way of the fifth table
    with pytest.raises(DatabaseRefused, match="snapshots"):
        await migrations.upgrade(empty.owner_url, app_role=APP)
    left = postgres.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace AND relkind = 'r'",
        empty.name,
    )
    assert left == "snapshots"


def test_the_revisions_that_a_server_knows_are_those_that_alembic_finds() -> None:
    """By the names of their files; and a server that only compares loads nothing of what migrates."""
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_current_head() == migrations.HEAD
    assert tuple(one.revision for one in script.walk_revisions()) == migrations.revisions()
    loaded = "[name for name in ('alembic', 'sqlalchemy') if name in sys.modules]"
    program = f"import sys, server.process.lifecycle; print({loaded})"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
