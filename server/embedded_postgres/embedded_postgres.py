"""Acquiring and releasing the embedded PostgreSQL; for tests also restarting and stopping it.

This module owns the order of the steps, and one rule: the first server starts PostgreSQL, the last one stops it.
The rule holds while servers start, stop and are killed at the same time. The module must not know how a step is
done, nor anything of trio: every function here blocks, and runs in a thread.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .data_dir import (
    PID_NAMESPACE,
    SOCKET,
    START_LOCK,
    USERS_LOCK,
    LockTimeout,
    Progress,
    SharedLock,
    default_data_dir,
    exclusive_lock,
    no_progress,
    prepare_data_dir,
)
from .initdb import (
    APP,
    DATABASE,
    OWNER,
    SUPERUSER,
    database_url,
    ensure_cluster,
    ensure_roles,
    find_package,
    find_programs,
)
from .os_user import ELSEWHERE, OWN_DATABASE, EmbeddedError, postgres_os_user
from .postmaster import Mode, Postmaster

_RELEASE_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running PostgreSQL that this process uses. Until `release`, no other process's release stops it.

    The three URLs lead to a Unix socket: `owner_url` for migrations, `app_url` for the server, `superuser_url` for
    tests that clone databases. They stay the same when PostgreSQL is restarted.
    """

    owner_url: str
    app_url: str
    superuser_url: str
    bin_dir: Path
    data_dir: Path
    _postmaster: Postmaster = field(repr=False, compare=False)
    _users_lock: SharedLock = field(repr=False, compare=False)

    @property
    def pid(self) -> int:
        """The pid of PostgreSQL's main process at this moment. Raises EmbeddedError when none runs."""
        pid = self._postmaster.pid()
        if pid is None:
            raise EmbeddedError(
                f"No PostgreSQL runs on {self._postmaster.cluster}. See {self._postmaster.log} for the reason, "
                "and start Tokentape again."
            )
        return pid

    def release(self) -> None:
        """Ends the use. If no other process uses PostgreSQL, stops it and waits until it has ended. Blocks.

        A second call does nothing. Raises EmbeddedError when PostgreSQL does not stop; even then the use has
        ended.
        """
        try:
            with _os_errors_explained(self.data_dir):
                with exclusive_lock(self.data_dir / START_LOCK, limit_s=_RELEASE_LIMIT_S):
                    _release(self._postmaster, self._users_lock)
        except LockTimeout:
            pass  # another server has been starting PostgreSQL for its own use, so this was not the last user
        finally:
            self._users_lock.release()


def acquire(
    data_dir: Path | None = None,
    *,
    progress: Progress = no_progress,
    settings: Mapping[str, str] | None = None,
) -> Embedded:
    """Starts the embedded PostgreSQL if it does not run, and returns it for use. Blocks: at first for seconds.

    `data_dir` is created if it is missing; None means `default_data_dir()`. `progress` is called about once a
    second with what is waited for. It may raise to end the wait: then everything is undone. `settings` are
    PostgreSQL's, for tests, and take effect only if this call starts PostgreSQL. Raises EmbeddedError when the
    machine or the folder cannot be used.
    """
    if sys.platform != "linux":
        raise EmbeddedError(f"The embedded PostgreSQL runs on Linux only: {OWN_DATABASE}.")
    wanted = default_data_dir() if data_dir is None else data_dir
    with _os_errors_explained(wanted):
        return _acquire(wanted, progress, settings or {})


def restart(embedded: Embedded, mode: Mode = "fast") -> None:
    """Stops PostgreSQL while others use it, and starts it again. Starts a stopped one. For tests. Blocks.

    "fast" is a planned restart, "immediate" is like a crash. PostgreSQL gets the settings of this `Embedded`.
    Raises EmbeddedError when it does not start.
    """
    with _os_errors_explained(embedded.data_dir), exclusive_lock(embedded.data_dir / START_LOCK):
        embedded._postmaster.stop(mode, no_progress)
        embedded._postmaster.start(no_progress)


def stop(embedded: Embedded, mode: Mode = "fast") -> None:
    """Stops PostgreSQL while others use it. `restart` starts it again. For tests. Blocks.

    Raises EmbeddedError when it does not stop.
    """
    with _os_errors_explained(embedded.data_dir), exclusive_lock(embedded.data_dir / START_LOCK):
        embedded._postmaster.stop(mode, no_progress)


def _acquire(wanted: Path, progress: Progress, settings: Mapping[str, str]) -> Embedded:
    package = find_package()
    os_user = postgres_os_user()
    data_dir = prepare_data_dir(wanted, os_user)
    with exclusive_lock(data_dir / START_LOCK, progress):
        bin_dir = find_programs(package, data_dir, os_user, progress)
        ensure_cluster(data_dir, os_user, bin_dir, progress, durable=settings.get("fsync") != "off")
        postmaster = Postmaster(data_dir, os_user, bin_dir, settings)
        users_lock = SharedLock(data_dir / USERS_LOCK)
        try:
            socket_dir = _ensure_running(data_dir, postmaster, progress, alone=users_lock.alone)
            ensure_roles(os_user, bin_dir, socket_dir)
        except BaseException:
            _release(postmaster, users_lock)
            raise
    return Embedded(
        owner_url=database_url(OWNER, DATABASE, socket_dir),
        app_url=database_url(APP, DATABASE, socket_dir),
        superuser_url=database_url(SUPERUSER, "postgres", socket_dir),
        bin_dir=bin_dir,
        data_dir=data_dir,
        _postmaster=postmaster,
        _users_lock=users_lock,
    )


def _ensure_running(data_dir: Path, postmaster: Postmaster, progress: Progress, *, alone: bool) -> Path:
    """Uses the PostgreSQL that runs, or starts one. Returns the folder of its socket.

    `alone`: no other process uses this data folder.
    """
    pid = postmaster.pid()
    if pid is not None and postmaster.wait_until_ready(pid, progress):
        socket_dir = postmaster.socket_dir()
        if socket_dir is not None and (socket_dir / SOCKET).exists():
            return socket_dir
        raise EmbeddedError(
            f"PostgreSQL (pid {pid}) runs on {postmaster.cluster}, but its socket in {socket_dir} was removed or "
            "is hidden (a program cleaned /tmp, or a service has a private /tmp). Stop the Tokentape that uses "
            f"it, and PostgreSQL (kill -INT {pid}); then start Tokentape again."
        )
    started_in = data_dir / PID_NAMESPACE
    namespace = os.readlink("/proc/self/ns/pid")
    if not alone and started_in.exists() and started_in.read_text("ascii") != namespace:
        # Two containers on one volume see each other's locks but not each other's processes. A second PostgreSQL
        # on the same files would destroy the data.
        raise EmbeddedError(
            f"A Tokentape in another container uses the data folder {data_dir}, and containers cannot share an "
            f"embedded PostgreSQL. In this container, {ELSEWHERE}."
        )
    started_in.write_text(namespace, "ascii")
    return postmaster.start(progress)


def _release(postmaster: Postmaster, users_lock: SharedLock) -> None:
    """Stops PostgreSQL if no other process uses it, and releases the lock. Call it while `start.lock` is held.

    The next server must not meet `users_lock` while it is exclusive, so it is released before `start.lock`.
    """
    try:
        if users_lock.is_last():
            postmaster.stop("fast", no_progress)
    finally:
        users_lock.release()


@contextmanager
def _os_errors_explained(data_dir: Path) -> Iterator[None]:
    """An OSError names neither the database nor a next step: callers get an EmbeddedError that does."""
    try:
        yield
    except OSError as failure:
        where = f" ({failure.filename})" if failure.filename else ""
        raise EmbeddedError(
            f"The embedded PostgreSQL in {data_dir} cannot be used: {failure.strerror or failure}{where}. "
            f"Correct that, or {ELSEWHERE}."
        ) from failure
