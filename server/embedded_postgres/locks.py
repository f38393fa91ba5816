"""The two file locks by which servers that share one data folder agree, and the polling wait.

A server holds `start.lock` exclusively while it runs initdb, starts PostgreSQL or stops it. Each server holds
`users.lock` shared while it uses the database. A server takes `users.lock`, or tries it exclusively, only while
it holds `start.lock`, so that no server stops PostgreSQL while another begins to use it. The kernel releases the
locks of a killed server. This module must not know what is started or stopped.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .os_user import EmbeddedError

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
