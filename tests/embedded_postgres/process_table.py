"""Reads /proc and ends processes. It shares no code with the package under test, whose errors it would repeat.

A zombie, a process that has ended but whose parent has not waited for it yet, counts as ended.
"""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Pid and arguments of every process. Zombies and kernel threads have no arguments and are left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # the process has just ended
                if raw := (entry / "cmdline").read_bytes():
                    yield int(entry.name), os.fsdecode(raw).split("\0")


def postgres_of(place: Path) -> list[int]:
    """The PostgreSQL main processes whose data is in or below `place`."""
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
    """What each file descriptor of a process refers to, such as `socket:[123]`. An ended process has none."""
    found = set()
    with suppress(OSError):  # the process has ended
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # the descriptor was closed since the folder was listed
                found.add(os.readlink(entry))
    return found


def running(pid: int) -> bool:
    return any(pid == other for other, _ in command_lines())


def kill(pid: int) -> None:
    """Sends SIGKILL and waits until the process has ended. It need not be a child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll()
    finally:
        os.close(handle)
