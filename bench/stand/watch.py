"""Looks at the processes of a benchmark twice a second while it runs, and says afterwards what each cost."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.stand.proc import Cost, costs, descendants, machine_cpu

EVERY_SECONDS = 0.5
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Look:
    """All groups at one moment (monotonic ns): each process's cost, and the machine's busy seconds."""

    at: int
    groups: dict[str, dict[int, Cost]]
    machine: float


@dataclass(frozen=True, slots=True)
class Use:
    """A group between two looks. CPU in seconds; `busiest` is that of its busiest process."""

    cpu: float
    busiest: float
    rss: int


def use(before: Look, after: Look) -> dict[str, Use]:
    """What each group has cost between two looks, and `others`: everything else on the machine (no memory)."""
    found: dict[str, Use] = {}
    for name, processes in after.groups.items():
        past = before.groups[name]
        # One that is new since has cost what it has cost; one that has gone since is not known any more.
        each = [now.cpu - (past[pid].cpu if pid in past else 0.0) for pid, now in processes.items()]
        found[name] = Use(sum(each), max(each, default=0.0), sum(now.rss for now in processes.values()))
    others = max(0.0, after.machine - before.machine - sum(one.cpu for one in found.values()))
    found[OTHERS] = Use(others, others, 0)
    return found


class Watch:
    """Groups by name, each a process and its descendants."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks: list[Look] = []

    def between(self, begin: int, end: int) -> tuple[Look, Look] | None:
        """The first and the last look within a span of time; None when there are not two."""
        inside = [look for look in self.looks if begin <= look.at <= end]
        return (inside[0], inside[-1]) if len(inside) > 1 else None

    def _run(self) -> None:
        while True:
            began = time.monotonic_ns()
            groups = {name: costs(descendants(root)) for name, root in self._roots.items()}
            self.looks.append(Look((began + time.monotonic_ns()) // 2, groups, machine_cpu()))
            if self._over.wait(EVERY_SECONDS):
                return


@contextmanager
def watching(roots: Mapping[str, int]) -> Iterator[Watch]:
    """Looks for as long as the context lasts."""
    watch = Watch(roots)
    watch._thread.start()
    try:
        yield watch
    finally:
        watch._over.set()
        watch._thread.join()
