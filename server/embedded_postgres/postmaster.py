"""The PostgreSQL server process ("postmaster") of one data folder: finding, starting and stopping it.

This module knows the settings that PostgreSQL runs with, and how to start it so that it outlives this process. The
process table decides whether PostgreSQL runs: its pid file can be old, empty, or name a pid that another process
has by now. Of /proc only `cmdline` and `status` are read: in a container without CAP_SYS_PTRACE, root cannot read
the `exe`, `cwd` and `fd` of another user's process. The caller holds `start.lock` for all but `pid`. This module
must not know who uses the database or what is in it.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from .data_dir import (
    CLUSTER,
    LOG,
    PORT,
    Progress,
    create_socket_dir,
    remove_socket_dir,
    remove_stale_socket,
    wait_until,
)
from .os_user import EmbeddedError, OsUser

Mode = Literal["fast", "immediate"]

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_STOP_LIMIT_S = 60.0
_ORPHANS_LIMIT_S = 60.0
_ORPHANS_PAUSE_S = 0.2
_ORPHANS = "pre-existing shared memory block"  # in English: PostgreSQL's programs run with LC_ALL=C
_TAIL_BYTES = 2048
_PROC = Path("/proc")

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # With the defaults, a busy log has a checkpoint every few minutes, and after each checkpoint the first change
    # of a page writes the whole page to the write-ahead log.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class _PidFile(NamedTuple):
    """What postmaster.pid says, as far as it is written. `status` is "starting", "ready" or "stopping"."""

    pid: int = 0
    socket_dir: str = ""
    status: str = ""


class Postmaster:
    """The PostgreSQL server process of one data folder, whichever Tokentape started it.

    `settings` are PostgreSQL's. They take precedence over the settings of this module.
    """

    def __init__(self, data_dir: Path, os_user: OsUser, bin_dir: Path, settings: Mapping[str, str]) -> None:
        self.cluster = data_dir / CLUSTER
        self.log = data_dir / LOG
        self._data_dir = data_dir
        self._os_user = os_user
        self._bin_dir = bin_dir
        self._settings = dict(settings)

    def pid(self) -> int | None:
        """The pid of the running PostgreSQL, or None when none runs."""
        noted = self._read_pid_file().pid
        if self._is_postmaster(noted, noted=True):
            return noted
        found = {pid for pid in _pids() if self._is_postmaster(pid, noted=False)}
        # A child process has its parent's command line for a moment after the fork.
        return min((pid for pid in found if int(_status(pid).get("PPid", "0")) not in found), default=None)

    def socket_dir(self) -> Path | None:
        """The folder of the socket, which the pid file names."""
        folder = self._read_pid_file().socket_dir
        return Path(folder) if folder else None

    def start(self, progress: Progress) -> Path:
        """Starts PostgreSQL, waits until it accepts connections, and returns the folder of its socket.

        Call it only when no PostgreSQL runs on the data folder. Raises EmbeddedError with the end of PostgreSQL's
        log when PostgreSQL ends.
        """
        socket_dir = create_socket_dir(self._data_dir, self._os_user)
        give_up_at = time.monotonic() + _ORPHANS_LIMIT_S
        progress("starting PostgreSQL")
        while (complaint := self._try_start(socket_dir, progress)) is not None:
            # After a kill -9 of the postmaster, a session in a long query holds its shared memory until the query
            # ends. Until then PostgreSQL refuses to start, because that session can still write.
            if _ORPHANS not in complaint or time.monotonic() > give_up_at:
                raise EmbeddedError(
                    f"PostgreSQL ended while it started on {self.cluster}. Correct what it complains of, and "
                    f"start Tokentape again. The end of its log, {self.log}:\n{complaint}"
                )
            progress("waiting for the last sessions of a PostgreSQL that was killed")
            time.sleep(_ORPHANS_PAUSE_S)
        return socket_dir

    def wait_until_ready(self, pid: int, progress: Progress) -> bool:
        """Waits until the PostgreSQL `pid` accepts connections (True) or has ended (False).

        There is no time limit: crash recovery reads the whole write-ahead log since the last checkpoint, which
        takes minutes on a slow disk, and would begin again after a stop.
        """

        def is_ready_or_has_ended() -> bool:
            found = self._read_pid_file()
            return (found.pid, found.status) == (pid, "ready") or _has_ended(pid)

        wait_until(is_ready_or_has_ended, math.inf, progress, f"PostgreSQL (pid {pid}) to start or recover")
        return not _has_ended(pid)

    def stop(self, mode: Mode, progress: Progress) -> None:
        """Stops PostgreSQL, waits until it has ended, and removes the folder of its socket.

        "fast" ends all sessions and writes a checkpoint. "immediate" ends without a checkpoint, and the next start
        recovers. After _STOP_LIMIT_S a fast stop becomes an immediate one. Raises EmbeddedError when PostgreSQL
        does not end.
        """
        pid = self.pid()
        for step in (mode, "immediate"):
            if pid is None:
                break
            with suppress(ProcessLookupError):
                os.kill(pid, _SIGNALS[step])
            wait_until(partial(_has_ended, pid), _STOP_LIMIT_S, progress, f"PostgreSQL (pid {pid}) to stop")
            pid = self.pid()
        if pid is not None:
            raise EmbeddedError(
                f"PostgreSQL (pid {pid}) on {self.cluster} does not stop. See {self.log} for the reason. As a "
                f"last resort run kill -9 {pid}: the next start recovers."
            )
        remove_socket_dir(self._data_dir, self._os_user)

    def _try_start(self, socket_dir: Path, progress: Progress) -> str | None:
        """Returns None when PostgreSQL accepts connections, else the end of its log."""
        # Another PostgreSQL may have come up since the caller looked, started by a server that was then killed.
        if self.pid() is None:
            # PostgreSQL refuses to start on an empty pid file, and while the pid in the file belongs to any
            # process of the same user. In a container the new process often gets the pid of the old one: then the
            # "ready" in the old file would count for the new process.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
            remove_stale_socket(socket_dir)
        settings = {**_SETTINGS, "unix_socket_directories": str(socket_dir), **self._settings}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(log, "rb") as log_file:
            offset = os.fstat(log).st_size
            process = self._os_user.popen([self._bin_dir / "postgres", "-D", self.cluster, *options], log=log)
            # Another server may stop this PostgreSQL. Without the wait it would stay a zombie of this process.
            threading.Thread(target=process.wait, name="postmaster wait", daemon=True).start()
            pid: int | None = process.pid
            while pid is not None:
                if self.wait_until_ready(pid, progress):
                    return None
                pid = self.pid()  # ours ends when a PostgreSQL that a killed server started was faster
            log_file.seek(max(offset, os.fstat(log).st_size - _TAIL_BYTES))
            return log_file.read().decode("utf-8", "replace").strip()

    def _is_postmaster(self, pid: int, *, noted: bool) -> bool:
        """Whether the process is this user's PostgreSQL on the cluster. `noted`: the pid file names it."""
        argv = _argv(pid)
        effective_uid = _status(pid).get("Uid", "- -").split()[1]
        if not argv or os.path.basename(argv[0]) != "postgres" or effective_uid != str(self._os_user.uid):
            return False
        place = argv[argv.index("-D") + 1] if "-D" in argv[:-1] else ""
        if not os.path.isabs(place):
            return noted  # started by hand: believe the pid file, so that no second PostgreSQL is started
        try:
            return os.path.samefile(place, self.cluster)  # a mount can give the same folder another path
        except OSError:
            return False

    def _read_pid_file(self) -> _PidFile:
        """The fields are empty when there is no file, or an empty one, as a crash or a full disk leaves it."""
        try:
            text = (self.cluster / "postmaster.pid").read_text("utf-8", "surrogateescape")
            lines = [line.strip() for line in text.split("\n")] + [""] * 8
            return _PidFile(abs(int(lines[0])), lines[4], lines[7])  # negative for a single-user backend
        except (FileNotFoundError, ValueError):
            return _PidFile()


def _has_ended(pid: int) -> bool:
    """Whether the process has ended. So has a zombie: its files are closed, only its parent has not waited yet."""
    return _status(pid).get("State", "X")[:1] in "ZX"


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir(_PROC) if entry.isdigit())


def _argv(pid: int) -> list[str]:
    """Empty for a zombie, a kernel thread, or a process that has just ended."""
    try:
        return os.fsdecode((_PROC / str(pid) / "cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []


def _status(pid: int) -> dict[str, str]:
    try:
        lines = (_PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
