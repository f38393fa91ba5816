"""The rule of 0002, for the rows that were there before it."""

from migrations.sql import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Looks at every stream once, and holds up nobody."""
    run("0003_validated.up.sql")


def downgrade() -> None:
    """Leaves the rule as it is."""
    run("0003_validated.down.sql")
