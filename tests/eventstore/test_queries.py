"""The named statements of statements.sql: all are loaded, all are used, and each is one statement."""

import re
from pathlib import Path

import eventstore.postgres
from eventstore.postgres.db_connection import STATEMENTS, load_statements

ROOM = Path(eventstore.postgres.__file__).parent


def test_every_named_statement_is_loaded() -> None:
    text = (ROOM / "statements.sql").read_text(encoding="utf-8")
    loaded = load_statements("eventstore.postgres", "statements.sql")
    assert list(loaded) == re.findall(r"^-- name: (.+)$", text, re.MULTILINE)
    assert loaded == STATEMENTS


def test_each_name_is_one_statement() -> None:
    for name, sql in STATEMENTS.items():
        bare = re.sub(r"--.*", "", sql).strip()
        assert bare.endswith(";"), name
        assert bare.count(";") == 1, name
        assert "-- name:" not in sql
    text = (ROOM / "statements.sql").read_text(encoding="utf-8")
    body = re.split(r"^-- name: .+\n", text, flags=re.MULTILINE)[1:]
    assert [part.strip() for part in body] == list(STATEMENTS.values())


def test_sql_comments_are_kept() -> None:
    assert STATEMENTS["trim"].startswith("-- Runs as the owner")


def test_every_statement_is_used() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in ROOM.glob("*.py"))
    used = re.findall(r'STATEMENTS\["(\w+)"\]', code) + re.findall(r'_query\("(\w+)"', code)
    assert set(used) == set(STATEMENTS)
