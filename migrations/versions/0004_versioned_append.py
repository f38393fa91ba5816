"""A number for the function that appends, and a word on who may work on this schema."""

from migrations.sql import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Renames append() to append_1(), keeps the old name for older servers, makes `compatible`."""
    run("0004_versioned_append.up.sql")


def downgrade() -> None:
    """Takes back the name, and the table."""
    run("0004_versioned_append.down.sql")
