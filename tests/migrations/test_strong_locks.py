"""Revisions may not hold a strong lock on a table for as long as the table is large; checked in the SQL of each.

The first revision makes the tables. From then on, a statement that reads a whole table under a lock that
stops appends pauses every server, and no `lock_timeout` helps once it has the lock.
"""

import re
from pathlib import Path

import pytest

import migrations

FOLDER = Path(migrations.__file__).parent / "sql"
LATER = sorted(path for path in FOLDER.glob("*.up.sql") if path.name > "0002")
TABLES = ("streams", "events", "writers", "keys", "snapshots")
WHOLE_TABLE = {
    r"ADD CONSTRAINT(?!.*NOT VALID)": "add it NOT VALID, and validate it in the next revision",
    r"ADD COLUMN.*(UNIQUE|REFERENCES|CHECK|PRIMARY KEY)": "add the column, then the constraint NOT VALID",
    r"ADD COLUMN.*DEFAULT.*(clock_timestamp|random|uuid|nextval)": "a volatile default rewrites the table",
    r"ALTER COLUMN.*\bTYPE\b": "add a column, and fill it piece by piece",
    r"SET NOT NULL": "add CHECK (… IS NOT NULL) NOT VALID, validate it, then this needs no look",
    r"CREATE (UNIQUE )?INDEX(?! CONCURRENTLY)": "build it CONCURRENTLY, in a revision outside of a transaction",
    r"^(VACUUM FULL|CLUSTER|TRUNCATE|REINDEX(?! .*CONCURRENTLY))": "it keeps everybody out",
    r"^(UPDATE|DELETE)": "change rows piece by piece, beside the servers",
}


def statements(sql: str) -> list[str]:
    """Each statement of a file on one line, without comments and without the bodies of functions."""
    bare = re.sub(r"--.*", "", sql)
    bare = re.sub(r"\$\$.*?\$\$", "$$", bare, flags=re.DOTALL)
    return [" ".join(part.split()) for part in bare.split(";") if part.strip()]


def long_lock_statements(sql: str) -> list[str]:
    """The statements of a file that would stop appends for as long as a table is large."""
    return [
        f"{statement[:60]}: {remedy}"
        for statement in statements(sql)
        if re.search(r"\b(" + "|".join(f"eventstore.{table}" for table in TABLES) + r")\b", statement)
        for what, remedy in WHOLE_TABLE.items()
        if re.search(what, statement, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.name)
def test_no_revision_scans_a_table_under_a_strong_lock(path: Path) -> None:
    assert long_lock_statements(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE eventstore.streams ADD CONSTRAINT c CHECK (head >= 0)",
        "ALTER TABLE eventstore.events ADD COLUMN n bigint CHECK (n > 0)",
        "ALTER TABLE eventstore.events ADD COLUMN n timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE eventstore.events ALTER COLUMN position TYPE numeric",
        "ALTER TABLE eventstore.writers ALTER COLUMN owner SET NOT NULL",
        "CREATE INDEX i ON eventstore.keys (stream)",
        "CREATE UNIQUE INDEX i\n  ON eventstore.keys (stream)",
        "UPDATE eventstore.streams SET category = ''",
        "DELETE FROM eventstore.keys",
        "SELECT 1; TRUNCATE eventstore.snapshots",
    ],
)
def test_scans_under_a_strong_lock_are_found(sql: str) -> None:
    assert long_lock_statements(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE eventstore.streams ADD CONSTRAINT c CHECK (head >= 0) NOT VALID",
        "ALTER TABLE eventstore.streams VALIDATE CONSTRAINT c",
        "ALTER TABLE eventstore.streams ADD COLUMN n bigint DEFAULT 0",
        "CREATE INDEX CONCURRENTLY i ON eventstore.keys (stream)",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ UPDATE eventstore.keys SET name = '' $$",
        "CREATE TABLE eventstore.more (n int); UPDATE eventstore.more SET n = 1",
    ],
)
def test_harmless_statements_are_allowed(sql: str) -> None:
    assert long_lock_statements(sql) == []
