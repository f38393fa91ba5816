"""Which processes belong to a cluster: read from /proc, believed over any pid file.

A pid file can be stale, empty, or name a pid that somebody else has by now; the process table cannot. Only
`cmdline` and `status` are read: `exe`, `cwd` and `fd` of another user's process are hidden from root in an
ordinary container (no CAP_SYS_PTRACE). Must not start, signal or wait for anything.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def find_postmaster(cluster: Path, uid: int, hint: int | None = None) -> int | None:
    """The pid of the PostgreSQL that runs on `cluster` as user `uid`, or None. `hint`: looked at first."""
    if hint is not None and _is_postmaster(hint, cluster, uid, noted=True):
        return hint
    found = {pid for pid in _pids() if _is_postmaster(pid, cluster, uid, noted=False)}
    # A child it forked a moment ago still carries its parent's command line.
    return min((pid for pid in found if _parent(pid) not in found), default=None)


def find_orphans(title: str, uid: int) -> list[int]:
    """The children (`postgres: <title>: …`) of a PostgreSQL that is no more; they may still hold its memory."""
    prefix = f"postgres: {title}: "
    named = [pid for pid in _pids() if "".join(_argv(pid)[:1]).startswith(prefix) and _uid(pid) == uid]
    return [pid for pid in named if not _postgres(_argv(_parent(pid)))]


def alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not: its files are closed, it only waits to be counted."""
    return _status(pid).get("State", "X")[:1] not in "ZX"


def hidden(pid: int) -> bool:
    """Whether the process lives but /proc does not show it (mounted with hidepid), so nothing is known of it."""
    if (_PROC / str(pid)).exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError as failure:
        return failure.errno == errno.EPERM
    return True


def pid_namespace() -> str:
    """Names the set of processes that this one can see (another container sees another); "" if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_postmaster(pid: int, cluster: Path, uid: int, *, noted: bool) -> bool:
    argv = _argv(pid)
    if not _postgres(argv) or _uid(pid) != uid:
        return False
    place = argv[argv.index("-D") + 1] if "-D" in argv[:-1] else ""
    if not os.path.isabs(place):
        return noted  # started by hand: with the cluster's own file saying so, better believed than started twice
    try:
        return os.path.samefile(place, cluster)  # the same, though mounted under two names
    except OSError:
        return False


def _postgres(argv: list[str]) -> bool:
    return bool(argv) and os.path.basename(argv[0]) == "postgres"


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir(_PROC) if entry.isdigit())


def _argv(pid: int) -> list[str]:
    """Empty for a zombie, a kernel thread, or a process that has just ended."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in raw.split(b"\0")] if raw else []


def _status(pid: int) -> dict[str, str]:
    try:
        lines = (_PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _uid(pid: int) -> int:
    return int(_status(pid).get("Uid", "-1 -1").split()[1])  # the effective one


def _parent(pid: int) -> int:
    return int(_status(pid).get("PPid", "0"))
