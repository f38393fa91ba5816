"""Which revisions there are, by the names of their files: for a server that only compares.

Alembic reads the same from the files' contents, and takes as long to import as a third of the whole server.
"""

from pathlib import Path
from typing import Final

_FOLDER = Path(__file__).parent / "versions"


def revisions() -> tuple[str, ...]:
    """All revisions this version knows, the newest first."""
    return tuple(sorted((file.name.partition("_")[0] for file in _FOLDER.glob("[0-9]*_*.py")), reverse=True))


HEAD: Final = revisions()[0]
"""The newest revision: what a database must be at to be served."""
