"""Runs `tokentape` so that it ends with the benchmark that started it, under a profiler where one is wanted.

    python -m bench.processes.server_launcher serve

With the environment variable BENCH_SAMPLES=path it samples where the server's CPU time goes, at a cost of about
a percent. The kernel's profiling timer counts CPU time only, so waiting is not sampled. Python runs the signal
handler between two bytecodes: time in C counts for the Python function that called it. Nothing is traced, so short
functions cost what they cost otherwise (unlike under cProfile). At the end it writes msgpack:
{"stacks": [[function, … innermost first]], "samples": [[monotonic ns, stack]]}.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType

import msgspec

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
SAMPLE_SECONDS = 0.001  # the kernel rounds it up to its own tick; the samples are weighed by the CPU time used


def main() -> None:
    """Runs the command line, and nothing else that `tokentape` does not run."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    path = os.environ.pop("BENCH_SAMPLES", None)
    from server.cli import main as tokentape

    sys.argv[0] = "tokentape"
    if path is None:
        tokentape()
    else:
        profile(path, tokentape)


class StackSampler:
    """Stack samples of the main thread, in which the whole server runs."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[CodeType, ...], int] = {}
        self._samples: list[tuple[int, int]] = []

    def take(self, _: int, frame: FrameType | None) -> None:
        """Records one sample: the signal handler."""
        stack = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        number = self._numbers.setdefault(tuple(stack), len(self._numbers))
        self._samples.append((time.monotonic_ns(), number))

    def write(self, path: str) -> None:
        """Writes all samples to a file."""
        stacks = [[f"{code.co_filename}:{code.co_qualname}" for code in stack] for stack in self._numbers]
        with open(path, "wb") as file:
            file.write(msgspec.msgpack.encode({"stacks": stacks, "samples": self._samples}))


def profile(path: str, run: Callable[[], None]) -> None:
    """Runs `run` to its end and writes its samples to `path`. The file appears only when it is complete."""
    sampler = StackSampler()
    signal.signal(signal.SIGPROF, sampler.take)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
    try:
        run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sampler.write(f"{path}.part")
        os.rename(f"{path}.part", path)


if __name__ == "__main__":
    main()
