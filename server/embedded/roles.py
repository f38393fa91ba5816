"""The roles and the database inside the cluster, and the URLs by which they are reached.

Owns `roles.sql` and its run through psql (this room has no driver). `tokentape_owner` owns the database and runs
migrations; `tokentape_app` is what the server works as, and gets its rights from the migrations. Must not know
how PostgreSQL was started, nor any table.
"""

from pathlib import Path

from .account import Account
from .cluster import SUPERUSER
from .errors import EmbeddedError, cure_for
from .socket_folder import PORT

DATABASE = "tokentape"
OWNER = "tokentape_owner"
APP = "tokentape_app"

_SQL = Path(__file__).with_name("roles.sql")


def url(role: str, database: str, socket_dir: Path) -> str:
    """A connection URL through the socket. The folder's name is ours and plain, nothing needs escaping."""
    return f"postgresql://{role}@/{database}?host={socket_dir}&port={PORT}"


def ensure_roles(account: Account, bin_dir: Path, socket_dir: Path) -> None:
    """Makes or mends the two roles and the database. Raises EmbeddedError when PostgreSQL does not let us."""
    done = account.run(
        [
            bin_dir / "psql",
            "--no-psqlrc",
            "--no-password",
            "--quiet",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            f"--dbname={url(SUPERUSER, 'postgres', socket_dir)}",
            "--file=-",
        ],
        stdin=_SQL.read_text("utf-8"),
    )
    if done.returncode != 0:
        raise EmbeddedError(
            f"PostgreSQL runs, but its roles and database could not be made through {socket_dir}."
            f"{cure_for(done.stderr)} psql said:\n{done.stderr.strip()}"
        )
