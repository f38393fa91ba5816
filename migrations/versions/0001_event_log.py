"""The event log."""

from migrations.sql import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes streams, events, writers, keys, snapshots and append()."""
    run("0001_event_log.up.sql")


def downgrade() -> None:
    """Takes them away, with all they hold."""
    run("0001_event_log.down.sql")
