"""The schema's history: Alembic revisions with plain SQL inside (`sql/`), and the two calls that run them.

`schema.sql` is never applied: it shows what all revisions together make, and a test keeps it equal. The
wheel ships all of this, for `tokentape migrate` and for the embedded database.
"""

from migrations.run import HEAD, downgrade, revisions, upgrade

__all__ = ["HEAD", "downgrade", "revisions", "upgrade"]
