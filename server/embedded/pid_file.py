"""PostgreSQL's postmaster.pid: how far a running PostgreSQL has got, and where its socket lies.

Owns reading the file and removing a stale one. Whether the process it names lives is asked elsewhere, of /proc.
Must not start, signal or wait for anything.
"""

from dataclasses import dataclass
from pathlib import Path

from .processes import hidden


@dataclass(frozen=True, slots=True)
class PidFile:
    """`status` is "starting", "ready", "stopping" or "standby"; "" while PostgreSQL has not written that far."""

    pid: int
    socket_dir: Path | None
    status: str


def read_pid_file(cluster: Path) -> PidFile | None:
    """None when there is no file, or one without a pid (a crash or a full disk left it empty)."""
    try:
        lines = _path(cluster).read_text("utf-8", "surrogateescape").split("\n")
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in lines] + [""] * 8
    try:
        pid = abs(int(lines[0]))  # negative for a single-user backend
    except ValueError:
        return None
    return PidFile(pid, Path(lines[4]) if lines[4] else None, lines[7])


def clear_stale(cluster: Path) -> bool:
    """Removes the file, if any; True when none is left. Call it only when no PostgreSQL is seen on `cluster`.

    PostgreSQL gives up on an empty one, and on one whose pid belongs to a zombie or, reused, to any process of the
    same user. One whose pid is free it replaces; but in a container the new process often gets that very pid, and
    the old file's "ready" would be taken for its own.
    """
    found = read_pid_file(cluster)
    if found is not None and hidden(found.pid):
        return False  # nothing is known of that process: PostgreSQL itself must judge it
    _path(cluster).unlink(missing_ok=True)
    return True


def _path(cluster: Path) -> Path:
    return cluster / "postmaster.pid"
