"""Seeing and ending processes in tests: its own eye on /proc, so that the room is not judged by its own code.

A process that ended but that init has not yet counted (a zombie) is gone here, as it is for the room.
"""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Pid and arguments of every process; zombies and kernel threads have none and are left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # ended in this moment
                if raw := (entry / "cmdline").read_bytes():
                    yield int(entry.name), os.fsdecode(raw).split("\0")


def postgres_of(place: Path) -> list[int]:
    """The PostgreSQL main processes whose data lies in or below `place`."""
    found = [
        pid
        for pid, argv in command_lines()
        if Path(argv[0]).name == "postgres" and any(word.startswith(f"{place}/") for word in argv)
    ]
    return [pid for pid in found if parent(pid) not in found]


def parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def children(pid: int) -> list[int]:
    return [child for child, _ in command_lines() if parent(child) == pid]


def open_files(pid: int) -> set[str]:
    """What each descriptor of a process points at, such as `socket:[123]`."""
    return {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def running(pid: int) -> bool:
    return any(pid == other for other, _ in command_lines())


def kill(pid: int) -> None:
    """kill -9, and waits until the process has ended (it need not be a child)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        watch = select.poll()
        watch.register(handle, select.POLLIN)
        watch.poll()
    finally:
        os.close(handle)
