"""The named statements: all there, all used, each one statement."""

import re
from pathlib import Path

import eventstore.postgres
from eventstore.postgres.db_connection import STATEMENTS, load_statements

ROOM = Path(eventstore.postgres.__file__).parent


def test_every_name_in_the_file_is_loaded() -> None:
    text = (ROOM / "statements.sql").read_text(encoding="utf-8")
    assert list(load_statements()) == re.findall(r"^-- name: (.+)$", text, re.MULTILINE)
    assert load_statements() == STATEMENTS


def test_each_is_one_statement_and_nothing_is_lost() -> None:
    for name, sql in STATEMENTS.items():
        bare = re.sub(r"--.*", "", sql).strip()
        assert bare.endswith(";"), name
        assert bare.count(";") == 1, name
        assert "-- name:" not in sql
    text = (ROOM / "statements.sql").read_text(encoding="utf-8")
    body = re.split(r"^-- name: .+\n", text, flags=re.MULTILINE)[1:]
    assert [part.strip() for part in body] == list(STATEMENTS.values())


def test_comments_are_kept() -> None:
    assert STATEMENTS["trim"].startswith("-- Runs as the owner")


def test_all_are_used_and_none_is_missing() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in ROOM.glob("*.py"))
    used = re.findall(r'STATEMENTS\["(\w+)"\]', code) + re.findall(r'_query\("(\w+)"', code)
    assert set(used) == set(STATEMENTS)
