"""Where the data lies: the default place, the names inside it, and making it with the right owner and mode.

Owns the promise that no folder Tokentape did not make is ever loosened: a place that PostgreSQL's user cannot
reach is refused, with the folder that blocks and what to do. Must not know what PostgreSQL is or does.
"""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .account import Account, user_name
from .errors import ELSEWHERE, EmbeddedError

_ROOTS_PLACE = Path("/var/lib/tokentape")
_LONGEST = 900  # bytes; PostgreSQL cuts paths at 1,024, and its files lie some way below


@dataclass(frozen=True, slots=True)
class Layout:
    """The names inside one data folder (absolute, links resolved)."""

    data_dir: Path

    @property
    def cluster(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def start_lock(self) -> Path:
        return self.data_dir / "start.lock"

    @property
    def users_lock(self) -> Path:
        return self.data_dir / "users.lock"

    @property
    def started_in(self) -> Path:
        return self.data_dir / "postgres.pidns"


def default_data_dir() -> Path:
    """As root /var/lib/tokentape, else `tokentape` in the user's data folder ($XDG_DATA_HOME or ~/.local/share).

    Raises EmbeddedError when this user has no home folder.
    """
    if os.geteuid() == 0:
        return _ROOTS_PLACE
    wanted = Path(os.environ.get("XDG_DATA_HOME", ""))
    if wanted.is_absolute():  # a relative one is to be ignored, says the XDG specification
        return wanted / "tokentape"
    return _expanded(Path("~/.local/share/tokentape"))


def prepare(wanted: Path, account: Account) -> Layout:
    """Makes sure that the data folder exists and that `account` can reach what lies in it.

    As root a new folder is root's, mode 0710 with the account's group (the account may pass, not write); an
    ordinary user's is 0700. Raises EmbeddedError when it cannot be made, reached or trusted; OSError otherwise.
    """
    data_dir = Path(os.path.realpath(_expanded(wanted)))
    if "\n" in str(data_dir):  # PostgreSQL keeps the path as one line of its pid file
        raise EmbeddedError(f"The data folder {str(data_dir)!r} has a line break in its name: {ELSEWHERE}.")
    if len(os.fsencode(data_dir)) > _LONGEST:
        raise EmbeddedError(
            f"The path of the data folder is longer than {_LONGEST} bytes: {ELSEWHERE}. ({data_dir})"
        )
    chain = [*reversed(data_dir.parents), data_dir]
    barrier = account.first_barred(chain)
    if barrier is not None:
        raise _unreachable(data_dir, barrier, account)
    for folder in chain:
        if not folder.exists():
            _make(folder, account, last=folder == data_dir)
    _trust(data_dir, account)
    return Layout(data_dir)


def _make(folder: Path, account: Account, *, last: bool) -> None:
    """Made under another name and renamed: a second server must never see it with a mode that is still wrong."""
    try:
        new = tempfile.mkdtemp(prefix=".tokentape-", dir=folder.parent)
    except OSError as failure:
        raise EmbeddedError(
            f"The data folder {folder} cannot be made: {failure.strerror}. Make it yourself and give it to "
            f"the user who runs Tokentape, {ELSEWHERE}."
        ) from failure
    try:
        if account.separate:
            os.chown(new, 0, account.gid if last else 0)
            os.chmod(new, 0o710 if last else 0o755)
        os.rename(new, folder)
    except OSError:
        os.rmdir(new)
        if not folder.is_dir():  # else another server was faster, and its folder is as good
            raise


def _trust(data_dir: Path, account: Account) -> None:
    found = data_dir.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise EmbeddedError(f"The data folder {data_dir} is a file. Move it away, {ELSEWHERE}.")
    if found.st_mode & stat.S_IWOTH:
        raise EmbeddedError(
            f"The data folder {data_dir} may be written by everybody, so anybody could slip in a database. "
            f"Name a folder inside it, {ELSEWHERE}."
        )
    if account.separate and found.st_uid != 0:
        # Whoever owns it could swap what root is about to write there for a link to something of root's.
        raise EmbeddedError(
            f"The data folder {data_dir} belongs to {user_name(found.st_uid)}, but Tokentape runs as root. "
            f"Start it as {user_name(found.st_uid)}, give the folder to root (kept open to {account.name}), "
            f"or {ELSEWHERE}."
        )


def _unreachable(data_dir: Path, barrier: Path, account: Account) -> EmbeddedError:
    found = barrier.stat()
    if not stat.S_ISDIR(found.st_mode):
        return EmbeddedError(
            f"The data folder {data_dir} cannot be used: {barrier} is a file. Move it away, {ELSEWHERE}."
        )
    who = (
        f"PostgreSQL does not run as root but as the system user {account.name}, and that user"
        if account.separate
        else f"the user {account.name}"
    )
    example = _ROOTS_PLACE if account.separate else "~/.local/share/tokentape"
    return EmbeddedError(
        f"The data folder {data_dir} cannot be used: {who} may not enter {barrier} "
        f"(mode {stat.S_IMODE(found.st_mode):04o}, owner {user_name(found.st_uid)}). Tokentape does not "
        f"loosen folders that it did not make. Set TOKENTAPE_DATA_DIR to another folder, for example {example}."
    )


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as failure:
        raise EmbeddedError(
            f"No home folder for {path}: {failure} Set TOKENTAPE_DATA_DIR to a full path."
        ) from failure
