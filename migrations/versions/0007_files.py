"""Files that messages name, in a schema of their own."""

from migrations.sql import run

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the schema `tokentape_files`: files, their bytes, their uses, and who may touch them."""
    run("0007_files.up.sql")


def downgrade() -> None:
    """Takes it away, with all files: messages still name them, and they are unknown."""
    run("0007_files.down.sql")
