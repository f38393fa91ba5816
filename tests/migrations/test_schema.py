"""migrations/schema.sql shows the result of all revisions, and the package ships what running them needs."""

from importlib.resources import files

import pytest

import migrations
from tests.harness.databases import Postgres, TestDatabase
from tests.migrations.refresh import SCHEMA, dump_schema, normalise


def test_schema_sql_is_up_to_date(postgres: Postgres, database: TestDatabase) -> None:
    now = dump_schema(postgres.embedded.bin_dir, database.owner_url)
    if SCHEMA.read_text(encoding="utf-8") != now:
        pytest.fail("migrations/schema.sql is out of date. Run: python -m tests.migrations.refresh", pytrace=False)


def test_schema_sql_holds_all_tables_and_functions() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    for table in ("streams", "events", "writers", "keys", "snapshots", "revision"):
        assert f"CREATE TABLE eventstore.{table} (" in text
    assert "CREATE FUNCTION eventstore.append(" in text
    assert "#variable_conflict use_column" in text


def test_normalise() -> None:
    dump = "-- made by\n\\restrict x\n\nSET a = b;\nCREATE TABLE t (\n    n int -- kept\n);\n    -- kept\n"
    assert normalise(dump) == "CREATE TABLE t (\n    n int -- kept\n);\n    -- kept\n"


def test_every_revision_is_shipped_with_its_files() -> None:
    package = files("migrations")
    assert package.joinpath("env.py").is_file()
    versions = [path.name for path in package.joinpath("versions").iterdir() if path.name.endswith(".py")]
    assert sorted(versions)[-1].startswith(migrations.HEAD)
    for version in versions:
        for way in ("up", "down"):
            assert package.joinpath("sql", version.removesuffix(".py") + f".{way}.sql").read_text(encoding="utf-8")
