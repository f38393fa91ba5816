"""What a process costs, read from /proc: CPU seconds and memory. Linux, proc(5)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


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


def _stat(pid: int) -> list[str]:
    """The fields behind the name, from `state` on; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
