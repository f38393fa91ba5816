"""What a process costs, from /proc and its CPU clock: CPU seconds and memory. Linux, proc(5)."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CPUCLOCK_SCHED = 2  # clock_getcpuclockid(3): a process's clock is made of its id
LOOK_SECONDS, SETTLE_SECONDS, QUIET = 0.25, 15.0, 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU in seconds since the process began, resident memory in bytes."""

    cpu: float
    rss: int


def costs(pids: Iterable[int]) -> dict[int, Cost]:
    """Of each process; one that is gone has none."""
    found = {}
    for pid in pids:
        fields = _stat(pid)
        if fields:
            found[pid] = Cost((int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * PAGE)
    return found


def cpu_clock(pid: int) -> float:
    """CPU seconds of one process with all its threads, without its children; to the nanosecond.

    `costs` counts in ticks of 10 ms, too coarse for a thousand requests of half a millisecond.
    """
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


def settle(pid: int, seconds: float = SETTLE_SECONDS) -> None:
    """Waits until a process has as good as nothing to do any more, but no longer than `seconds`."""
    until = time.monotonic() + seconds
    quiet = 0
    while quiet < 2 and time.monotonic() < until:
        before = cpu_clock(pid)
        time.sleep(LOOK_SECONDS)
        quiet = quiet + 1 if cpu_clock(pid) - before <= QUIET * LOOK_SECONDS else 0


def machine_cpu() -> float:
    """Seconds in which the machine's cores did anything, for anybody, or were taken away by its host."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(word) for word in Path("/proc/stat").read_text("ascii").split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


def descendants(root: int) -> list[int]:
    """A process and all that came from it, now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


def pss(pid: int) -> int:
    """Bytes of memory, shared pages counted in shares (smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss: this needs Linux 4.14 or newer")


def rss(pid: int) -> int:
    """Bytes of resident memory. Raises `KeyError` when the process is gone."""
    return costs([pid])[pid].rss


def _stat(pid: int) -> list[str]:
    """The fields behind the name, from `state` on; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
