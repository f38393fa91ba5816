"""The named statements of the store of files: all used, each one statement."""

import re
from pathlib import Path

import server.files
from server.files.postgres_file_store import STATEMENTS

ROOM = Path(server.files.__file__).parent


def test_each_is_one_statement() -> None:
    assert list(STATEMENTS) == re.findall(
        r"^-- name: (.+)$", (ROOM / "files.sql").read_text("utf-8"), re.MULTILINE
    )
    for name, sql in STATEMENTS.items():
        bare = re.sub(r"--.*", "", sql).strip()
        assert bare.count(";") == 1, name
        assert bare.endswith(";"), name


def test_all_are_used_and_none_is_missing() -> None:
    code = (ROOM / "postgres_file_store.py").read_text(encoding="utf-8")
    used = re.findall(r'_fetch\(\s*self\._\w+,\s+"(\w+)"', code)
    assert set(used) == set(STATEMENTS)
