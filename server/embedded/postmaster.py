"""One PostgreSQL process: launched in a session of its own, waited for, stopped.

Owns the settings it runs with, the launch that lets it outlive the server, and the waits (each bounded, each with
a word to `progress`). Everything here is called under the start lock. Must not know who uses the database or what
is in it.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .account import Account
from .errors import EmbeddedError, cure_for
from .folder import Layout
from .pid_file import clear_stale, read_pid_file
from .processes import alive, find_orphans, find_postmaster
from .socket_folder import PORT, clear, mark

Mode = Literal["fast", "immediate"]

START_LIMIT_S = 600.0  # crash recovery reads the whole log since the last checkpoint, on a slow disk for minutes
_STOP_LIMIT_S = 60.0
_ORPHAN_LIMIT_S = 5.0
_TAIL_LINES = 15

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "2GB",  # at the defaults a busy log has a checkpoint every few minutes, and after each of them
    "checkpoint_timeout": "15min",  # the first change of a page writes the whole page
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

# A shell in between, which ends at once: the postmaster becomes init's child. As ours it would stay a zombie when
# another process stops it, and PostgreSQL takes a zombie in its pid file for a running server.
_LAUNCH = '"$@" </dev/null >&2 & echo $!'


@dataclass(frozen=True, slots=True)
class Site:
    """All that is needed to run PostgreSQL on one data folder. `settings` win over the ones of this room."""

    layout: Layout
    account: Account
    bin_dir: Path
    settings: Mapping[str, str]

    def postmaster(self) -> int | None:
        """The pid of the running PostgreSQL, found in the process table; None when none runs."""
        noted = read_pid_file(self.layout.cluster)
        return find_postmaster(self.layout.cluster, self.account.uid, noted.pid if noted else None)


class StillStarting(EmbeddedError):
    """PostgreSQL lives but accepts no connections yet; were it stopped now, its recovery would begin anew."""


def start(site: Site, socket_dir: Path, progress: Callable[[str], None]) -> None:
    """Launches PostgreSQL, its socket in `socket_dir`, and waits until it accepts connections. Only if none runs.

    Raises EmbeddedError with the last lines of its log when it dies, or when it takes longer than START_LIMIT_S.
    """
    _end_orphans(site, progress)
    # Asked once more: one may have come up since the caller looked, launched by a server that was then killed.
    if site.postmaster() is None and clear_stale(site.layout.cluster):
        clear(socket_dir)
    progress("starting PostgreSQL")
    offset = site.layout.log.stat().st_size if site.layout.log.exists() else 0
    pid: int | None = _launch(site, socket_dir)
    while pid is not None and not await_ready(site, pid, progress):
        pid = site.postmaster()  # a rival, launched by a server that was killed right after: ours made way for it
    if pid is None:
        said = _tail(site.layout.log, offset)
        raise EmbeddedError(
            f"PostgreSQL ended while it started on {site.layout.cluster}.{cure_for(said)} "
            f"The end of its log, {site.layout.log}:\n{said or '(nothing)'}"
        )


def await_ready(site: Site, pid: int, progress: Callable[[str], None]) -> bool:
    """Waits until the PostgreSQL `pid` accepts connections (True) or has ended (False).

    Raises StillStarting after START_LIMIT_S; PostgreSQL then goes on with what it does.
    """

    def settled() -> bool:
        noted = read_pid_file(site.layout.cluster)
        state = noted.status if noted is not None and noted.pid == pid else ""
        return state == "ready" or not alive(pid)

    if not _wait(settled, START_LIMIT_S, progress, f"waiting for PostgreSQL (pid {pid}) to start or recover"):
        raise StillStarting(
            f"PostgreSQL (pid {pid}) on {site.layout.cluster} accepts no connections after {START_LIMIT_S:.0f} s. "
            "It may still be recovering from a crash, and goes on with it: "
            f"see {site.layout.log}, and start Tokentape again later."
        )
    return alive(pid)


def halt(site: Site, mode: Mode, progress: Callable[[str], None]) -> None:
    """Stops PostgreSQL and waits until it has gone; does nothing when none runs.

    "fast" ends all sessions and writes a checkpoint; "immediate" ends without one, and the next start recovers.
    A fast stop that takes over a minute becomes an immediate one. Raises EmbeddedError when even that fails.
    """
    pid = site.postmaster()
    if pid is None:
        return
    for step in (mode, "immediate"):
        with suppress(ProcessLookupError):
            os.kill(pid, _SIGNALS[step])
        if _wait(lambda: not alive(pid), _STOP_LIMIT_S, progress, f"waiting for PostgreSQL (pid {pid}) to stop"):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # in a container without an init this process inherits it
            return
    raise EmbeddedError(
        f"PostgreSQL (pid {pid}) on {site.layout.cluster} does not stop. See {site.layout.log}; "
        "as a last resort end it with kill -9, the next start recovers."
    )


def _launch(site: Site, socket_dir: Path) -> int:
    settings = {
        **_SETTINGS,
        "unix_socket_directories": str(socket_dir),
        "cluster_name": mark(site.layout.data_dir),  # in the titles of its processes: by it orphans are known
        **site.settings,
    }
    argv = [str(site.bin_dir / "postgres"), "-D", str(site.layout.cluster)]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    log = os.open(site.layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with site.account.popen(["/bin/sh", "-c", _LAUNCH, "sh", *argv], log=log) as shell:
            said, _ = shell.communicate()
    finally:
        os.close(log)
    if not said.strip().isdigit():
        raise EmbeddedError(f"PostgreSQL could not be launched by /bin/sh: see {site.layout.log}.")
    return int(said)


def _end_orphans(site: Site, progress: Callable[[str], None]) -> None:
    """After a killed postmaster its children end by themselves, but one busy in a long query only after it; until
    then a new PostgreSQL refuses to start. Killing it loses nothing: the new one recovers from the log anyway.
    """
    title, uid = mark(site.layout.data_dir), site.account.uid
    what = "waiting for the last sessions of a PostgreSQL that was killed"
    if _wait(lambda: not find_orphans(title, uid), _ORPHAN_LIMIT_S, progress, what):
        return
    for pid in find_orphans(title, uid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _wait(lambda: not find_orphans(title, uid), _ORPHAN_LIMIT_S, progress, what)


def _wait(done: Callable[[], bool], limit_s: float, progress: Callable[[str], None], what: str) -> bool:
    """Polls, because these processes are not our children. False when `limit_s` have passed."""
    began = time.monotonic()
    spoke = 1.0
    while not done():
        waited = time.monotonic() - began
        if waited > limit_s:
            return False
        if waited >= spoke:
            progress(f"{what} ({waited:.0f} s)")
            spoke = waited + 1.0
        time.sleep(min(0.1, 0.01 + waited / 20))
    return True


def _tail(log: Path, offset: int) -> str:
    """The last lines that were written since `offset`."""
    with log.open("rb") as file:
        file.seek(max(offset, log.stat().st_size - 16384))
        return "\n".join(file.read().decode("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:])
