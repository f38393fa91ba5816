"""The data folder, its two locks, and the short private folder for PostgreSQL's Unix socket.

This module knows the default place of the data, the names inside the data folder, and which owner and mode the
folders need. It never changes the mode of a folder that Tokentape did not create: a folder that PostgreSQL's user
cannot reach is refused.

By the locks servers that share one data folder agree. A server holds `start.lock` exclusively while it runs
initdb, starts PostgreSQL or stops it. Each server holds `users.lock` shared while it uses the database. A server
takes `users.lock`, or tries it exclusively, only while it holds `start.lock`, so that no server stops PostgreSQL
while another begins to use it. The kernel releases the locks of a killed server. This module must not know what
PostgreSQL is or does.
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .os_user import ELSEWHERE, EmbeddedError, OsUser

# The names inside a data folder.
CLUSTER = "postgres"
LOG = "postgres.log"
START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
PID_NAMESPACE = "postgres.pidns"

PORT = 5432  # only part of the socket's name: PostgreSQL does not listen on TCP
SOCKET = f".s.PGSQL.{PORT}"

_MAX_PATH = 900  # bytes. PostgreSQL cuts off paths at 1,024 bytes, and its files are some levels below.


def default_data_dir() -> Path:
    """As root /var/lib/tokentape, else `tokentape` in the user's data folder ($XDG_DATA_HOME or ~/.local/share).

    Raises EmbeddedError when the user has no home folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/tokentape")
    xdg_data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if xdg_data_home.is_absolute():  # the XDG Base Directory Specification says to ignore a relative path
        return xdg_data_home / "tokentape"
    return _expand_home(Path("~/.local/share/tokentape"))


def prepare_data_dir(wanted: Path, os_user: OsUser) -> Path:
    """Creates the data folder if it is missing, checks it, and returns its absolute path with links resolved.

    New folders have mode 0700; root's have 0711, so that `os_user` may pass through but not write. Raises
    EmbeddedError when the folder cannot be created or reached, or when another user could change what is in it.
    """
    data_dir = Path(os.path.realpath(_expand_home(wanted)))
    if "\n" in str(data_dir) or len(os.fsencode(data_dir)) > _MAX_PATH:
        raise EmbeddedError(
            f"PostgreSQL cannot use a data folder whose path has a line break or more than {_MAX_PATH} bytes: "
            f"{ELSEWHERE}. The path is {str(data_dir)!r}."
        )
    missing = [folder for folder in (data_dir, *data_dir.parents) if not os.path.lexists(folder)]
    existing = missing[-1].parent if missing else data_dir
    if not (existing.is_dir() and os_user.may_execute(existing)):
        raise EmbeddedError(
            f"The data folder {data_dir} cannot be used: PostgreSQL runs as the user {os_user.name}, who may not "
            f"enter {existing}. Either that is a file, or it or a folder above it is closed to this user "
            f"(namei -l {existing} shows which). Tokentape does not open folders that it did not create: "
            f"{ELSEWHERE}."
        )
    mode = 0o711 if os_user.separate else 0o700
    for folder in reversed(missing):
        folder.mkdir(mode, exist_ok=True)
        folder.chmod(mode)  # a strict umask of this process must not shut out os_user
    found = data_dir.stat()
    if found.st_mode & stat.S_IWOTH:
        raise EmbeddedError(
            f"Everybody may write in the data folder {data_dir}, so anybody could put a database of their own "
            f"there. Name a folder inside it, or {ELSEWHERE}."
        )
    if os_user.separate and found.st_uid != 0:
        # The owner could replace a file that root is about to write by a link to a file of root's.
        raise EmbeddedError(
            f"The data folder {data_dir} belongs to user id {found.st_uid}, but Tokentape runs as root. Start "
            f"Tokentape as that user, give the folder to root (and keep it open to {os_user.name}), or "
            f"{ELSEWHERE}."
        )
    return data_dir


def create_socket_dir(data_dir: Path, os_user: OsUser) -> Path:
    """The folder for the socket, created if it is missing. The same data folder gets the same folder each time.

    Raises EmbeddedError when no place for such a folder is writable.
    """
    folders = _socket_dirs(data_dir, os_user)
    for folder in folders:
        with suppress(OSError):  # the folder exists, or cannot be created: the next line decides
            folder.mkdir(0o700)
            os.chown(folder, os_user.uid, os_user.gid)
        if _is_private(folder, os_user):
            return folder
    raise EmbeddedError(
        f"There is no place for the folder of PostgreSQL's socket: {' and '.join(map(str, folders))} cannot be "
        "created, or belong to another user. Make one of these places writable, or remove the folder of that name."
    )


def remove_socket_dir(data_dir: Path, os_user: OsUser) -> None:
    """Removes the folder with what is in it. Call it only when no PostgreSQL runs on `data_dir`."""
    for folder in _socket_dirs(data_dir, os_user):
        if _is_private(folder, os_user):
            with suppress(OSError):  # the next start uses whatever is left
                remove_stale_socket(folder)
                folder.rmdir()


def remove_stale_socket(socket_dir: Path) -> None:
    """Removes the socket of a killed PostgreSQL, and its lock file.

    The lock file names the killed process, and PostgreSQL does not start while another process has that pid.
    """
    for left in (socket_dir / SOCKET, socket_dir / f"{SOCKET}.lock"):
        left.unlink(missing_ok=True)


def _socket_dirs(data_dir: Path, os_user: OsUser) -> list[Path]:
    """The possible folders, best first. They are short, because a socket's path has at most 107 bytes.

    The hash includes device and inode: two containers can share /tmp and give their data folders the same path.
    """
    found = data_dir.stat()
    key = b"%d:%d:%s" % (found.st_dev, found.st_ino, os.fsencode(data_dir))
    name = f"tokentape-{hashlib.sha256(key).hexdigest()[:12]}"
    return [Path(place, name) for place in (("/run", "/tmp") if os_user.separate else ("/tmp", "/dev/shm"))]


def _is_private(folder: Path, os_user: OsUser) -> bool:
    """Whether `folder` is the user's own, with mode 0700.

    PostgreSQL trusts whoever reaches its socket, and everybody may create folders in /tmp: in a folder that
    somebody else created beforehand, that person could replace the socket.
    """
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (found.st_uid, stat.S_IMODE(found.st_mode)) == (os_user.uid, 0o700)


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise EmbeddedError(
            f"The path {path} needs a home folder, and this user has none. Set TOKENTAPE_DATA_DIR to a full path."
        ) from None


Progress = Callable[[str], None]
"""Is called about once a second with what is waited for. It may raise to end the wait."""


class LockTimeout(EmbeddedError):
    """Another process held the lock for the whole time limit."""


def no_progress(_: str) -> None:
    """Ignores what is waited for."""


def wait_until(condition: Callable[[], bool], limit_s: float, progress: Progress, what: str) -> bool:
    """Polls `condition` until it is true. Returns False when it is still false after `limit_s` seconds."""
    began = time.monotonic()
    next_report = 1.0
    while not condition():
        waited = time.monotonic() - began
        if waited > limit_s:
            return False
        if waited >= next_report:
            progress(f"waiting for {what} ({waited:.0f} s)")
            next_report = waited + 1.0
        time.sleep(min(0.1, 0.01 + waited / 20))
    return True


@contextmanager
def exclusive_lock(path: Path, progress: Progress = no_progress, limit_s: float = 720.0) -> Iterator[None]:
    """Holds the lock file `path` exclusively. Raises LockTimeout after waiting for `limit_s` seconds."""
    handle = _open(path)
    try:
        what = "another Tokentape that is starting or stopping PostgreSQL"
        if not wait_until(lambda: _try_lock(handle, fcntl.LOCK_EX), limit_s, progress, what):
            raise LockTimeout(
                f"Another process has been starting or stopping PostgreSQL for more than {limit_s:.0f} s: it "
                f"holds the lock {path}. Find out what it waits for, or end it, and start Tokentape again."
            )
        yield
    finally:
        _unlock(handle)


class SharedLock:
    """A shared lock on `users.lock`: while any process has one, no server stops PostgreSQL.

    Create it, and call `is_last`, only while `start.lock` is held. `alone` says whether no other process had the
    lock when this one was taken.
    """

    def __init__(self, path: Path) -> None:
        self._handle: int | None = _open(path)
        self.alone = _try_lock(self._handle, fcntl.LOCK_EX)
        fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def is_last(self) -> bool:
        """Whether no other process has the lock. Release this one afterwards: on False, flock may have lost it."""
        return self._handle is not None and _try_lock(self._handle, fcntl.LOCK_EX)

    def release(self) -> None:
        """Releases the lock. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _unlock(handle)


def _open(path: Path) -> int:
    # O_NOFOLLOW: a link must not lead root to another file. O_CLOEXEC: a child process must not keep the lock.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(handle: int) -> None:
    # Closing alone is not enough: a child process between fork and exec shares the descriptor and keeps the lock.
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
