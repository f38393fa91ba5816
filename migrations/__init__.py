"""The schema's history: Alembic revisions with plain SQL inside (`sql/`), and the two calls that run them.

`schema.sql` is never applied: it shows what all revisions together make, and a test keeps it equal. The
wheel ships all of this, for `tokentape migrate` and for the embedded database.
"""

from typing import TYPE_CHECKING, Any

from migrations.known import HEAD, revisions

if TYPE_CHECKING:
    from migrations.run import downgrade, upgrade

__all__ = ["HEAD", "downgrade", "revisions", "upgrade"]


def __getattr__(name: str) -> Any:
    """Alembic and SQLAlchemy are loaded when a database is migrated; a server that starts only compares."""
    if name not in ("downgrade", "upgrade"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from migrations import run

    return getattr(run, name)
