"""CPU time and memory of processes (Linux: /proc, proc(5), and the CPU clock of a process).

Owns the single figures, and the monitor that samples groups of processes twice a second while a benchmark runs.
It must not know what the processes do.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CPUCLOCK_SCHED = 2  # clock_getcpuclockid(3): the clock's id is made of the process id and this constant
QUIET_CHECK_SECONDS, QUIET_TIMEOUT_SECONDS, QUIET_CPU_SHARE = 0.25, 15.0, 0.05
SAMPLE_SECONDS = 0.5
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU in seconds since the process began, resident memory in bytes."""

    cpu: float
    rss: int


def costs(pids: Iterable[int]) -> dict[int, Cost]:
    """The cost of each process. A process that is gone is left out."""
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


def wait_until_quiet(pid: int, seconds: float = QUIET_TIMEOUT_SECONDS) -> None:
    """Waits until a process uses at most 5 % of a core, but no longer than `seconds`."""
    until = time.monotonic() + seconds
    quiet = 0
    while quiet < 2 and time.monotonic() < until:
        before = cpu_clock(pid)
        time.sleep(QUIET_CHECK_SECONDS)
        quiet = quiet + 1 if cpu_clock(pid) - before <= QUIET_CPU_SHARE * QUIET_CHECK_SECONDS else 0


def machine_cpu() -> float:
    """CPU seconds of the whole machine since it started, for any process, including time stolen by its host."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(word) for word in Path("/proc/stat").read_text("ascii").split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


def descendants(root: int) -> list[int]:
    """The ids of a process and of all its descendants, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:  # the list grows while it is walked
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
    """The fields of /proc/PID/stat after the process name, from `state` on; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """All groups at one moment (monotonic ns): the cost of each process, and the machine's CPU seconds."""

    at: int
    groups: dict[str, dict[int, Cost]]
    machine: float


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What a group used between two samples. CPU in seconds; `busiest` is that of its busiest process."""

    cpu: float
    busiest: float
    rss: int


def resource_use(before: ResourceSample, after: ResourceSample) -> dict[str, ResourceUse]:
    """What each group used between two samples. `others`: every other process of the machine (without memory)."""
    found: dict[str, ResourceUse] = {}
    for name, processes in after.groups.items():
        past = before.groups[name]
        # A process that began after the first sample counts whole; one that has ended is not counted.
        each = [now.cpu - (past[pid].cpu if pid in past else 0.0) for pid, now in processes.items()]
        found[name] = ResourceUse(sum(each), max(each, default=0.0), sum(now.rss for now in processes.values()))
    others = max(0.0, after.machine - before.machine - sum(one.cpu for one in found.values()))
    found[OTHERS] = ResourceUse(others, others, 0)
    return found


class ResourceMonitor:
    """Samples groups of processes in a thread. Each group is a process and its descendants."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[ResourceSample] = []

    def between(self, begin: int, end: int) -> tuple[ResourceSample, ResourceSample] | None:
        """The first and the last sample within a span (monotonic ns); None when there are not two."""
        inside = [sample for sample in self.samples if begin <= sample.at <= end]
        return (inside[0], inside[-1]) if len(inside) > 1 else None

    def _run(self) -> None:
        while True:
            began = time.monotonic_ns()
            groups = {name: costs(descendants(root)) for name, root in self._roots.items()}
            self.samples.append(ResourceSample((began + time.monotonic_ns()) // 2, groups, machine_cpu()))
            if self._stopping.wait(SAMPLE_SECONDS):
                return


@contextmanager
def monitor_resources(roots: Mapping[str, int]) -> Iterator[ResourceMonitor]:
    """Samples while the context lasts. `roots`: the process id of each group's root."""
    monitor = ResourceMonitor(roots)
    monitor._thread.start()
    try:
        yield monitor
    finally:
        monitor._stopping.set()
        monitor._thread.join()
