"""Runs one of this folder's SQL files inside a revision. The files are the revisions; Python only calls them."""

from pathlib import Path

from alembic import op


def run(name: str) -> None:
    """Executes a whole file, many statements, in the revision's transaction."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    driver = op.get_bind().connection.dbapi_connection
    # The driver's simple protocol takes a whole script; SQLAlchemy's cursor takes one statement only.
    driver.run_async(lambda connection: connection.execute(text))  # type: ignore[union-attr]
