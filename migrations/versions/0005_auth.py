"""Keys, sessions and tickets, in a schema of their own."""

from migrations.sql import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the schema `tokentape_auth`: keys, sessions, tickets, usage, and who may touch them."""
    run("0005_auth.up.sql")


def downgrade() -> None:
    """Takes it away: nobody can sign in any more, and servers of earlier versions ask nobody to."""
    run("0005_auth.down.sql")
