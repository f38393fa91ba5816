"""The two file locks that servers sharing one data folder agree by.

`start.lock`, exclusive, is held through every change (initdb, start, stop). `users.lock` is held shared by each
server while it uses the database; it is taken, and tried for exclusively, only under `start.lock`, so that one
server's stop and another's start cannot cross. Must not know what is started or stopped.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import EmbeddedError

_PAUSE_S = 0.05


@contextmanager
def exclusive(path: Path, progress: Callable[[str], None], limit_s: float) -> Iterator[None]:
    """Holds the lock file `path` exclusively. Waits for up to `limit_s`, with a word to `progress` each second.

    Raises EmbeddedError when another process keeps it longer.
    """
    handle = _open(path)
    try:
        began = time.monotonic()
        spoke = 1.0
        while not _try(handle, fcntl.LOCK_EX, path):
            waited = time.monotonic() - began
            if waited > limit_s:
                raise EmbeddedError(
                    f"Another process has been starting or stopping PostgreSQL for {waited:.0f} s (it holds "
                    f"{path}). See what it waits for, or end it and try again."
                )
            if waited >= spoke:
                progress("waiting for another Tokentape that is starting or stopping PostgreSQL")
                spoke = waited + 1.0
            time.sleep(_PAUSE_S)
        yield
    finally:
        _drop(handle)


class Seat:
    """A shared hold on `users.lock`: while any process has one, nobody stops PostgreSQL.

    Take it, and call `is_last`, only inside `exclusive(start.lock)`. `alone` tells whether nobody else had a
    seat when this one was taken.
    """

    __slots__ = ("_handle", "_path", "alone")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = _open(path)
        self.alone = _try(self._handle, fcntl.LOCK_EX, path)
        if not _try(self._handle, fcntl.LOCK_SH, path):
            self.vacate()
            raise EmbeddedError(f"Something that is no Tokentape holds a lock on {path}: end it and try again.")

    @property
    def vacant(self) -> bool:
        return self._handle is None

    def is_last(self) -> bool:
        """Whether nobody else has a seat. On False this seat is lost too, as flock's upgrade is not atomic."""
        return self._handle is not None and _try(self._handle, fcntl.LOCK_EX, self._path)

    def vacate(self) -> None:
        """Gives the seat up; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _drop(handle)


def _open(path: Path) -> int:
    # O_NOFOLLOW: root must not be led elsewhere by a link. O_CLOEXEC: a child must not keep the lock when we die.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _try(handle: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as failure:
        if failure.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise OSError(failure.errno, failure.strerror, os.fspath(path)) from failure
    return True


def _drop(handle: int) -> None:
    # Unlocked, not only closed: a child between fork and exec still shares the descriptor and would keep the lock.
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
