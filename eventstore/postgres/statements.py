"""Loads `statements.sql`: the named statements, as text. SQL is never built from strings here."""

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load() -> dict[str, str]:
    """Name to statement, comments kept (they show in the server's log)."""
    parts = _NAME.split(files(__package__).joinpath("statements.sql").read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


STATEMENTS = load()
