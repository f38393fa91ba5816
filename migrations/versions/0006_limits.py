"""Limits of single keys, and what servers tell each other of the runs and readers that they have."""

from migrations.sql import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the limits of a key, and the table of the servers' counts."""
    run("0006_limits.up.sql")


def downgrade() -> None:
    """Takes them away: keys keep working, without limits of their own."""
    run("0006_limits.down.sql")
