"""Streams that are erased."""

from migrations.sql import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes erase_streams(), and the rule that an erased stream stays so."""
    run("0002_erasing.up.sql")


def downgrade() -> None:
    """Takes both away."""
    run("0002_erasing.down.sql")
