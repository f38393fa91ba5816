"""The schema's history: Alembic revisions with plain SQL inside (`sql/`), and the two calls that run them.

`schema.sql` is never applied: it shows what all revisions together make, and a test keeps it equal. The
wheel ships all of this, for `tokentape migrate` and for the embedded database.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from migrations.runner import downgrade, upgrade

__all__ = ["HEAD", "downgrade", "revisions", "upgrade"]

_VERSIONS = Path(__file__).parent / "versions"


def revisions() -> tuple[str, ...]:
    """All revisions this version knows, the newest first: by the names of their files, as a server compares them.

    Alembic reads the same from the files' contents, and takes a third of a server's start to import.
    """
    return tuple(sorted((file.name.partition("_")[0] for file in _VERSIONS.glob("[0-9]*_*.py")), reverse=True))


HEAD: Final = revisions()[0]
"""The newest revision: what a database must be at to be served."""


def __getattr__(name: str) -> Any:
    """Alembic and SQLAlchemy are loaded when a database is migrated; a server that starts only compares."""
    if name not in ("downgrade", "upgrade"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from migrations import runner

    return getattr(runner, name)
