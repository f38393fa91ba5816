"""A sampling profiler inside the server: where its CPU time goes, at a cost of about a percent.

The kernel's profiling timer counts CPU time only, so waiting is not sampled. Python runs the handler between
two bytecodes: time in C lands on the Python function that called it. Nothing is traced, so short functions cost
what they cost otherwise (unlike under cProfile).

Written at the end: msgpack, {"stacks": [[function, … innermost first]], "samples": [[monotonic ns, stack]]}.
"""

import os
import signal
import time
from collections.abc import Callable
from types import CodeType, FrameType

import msgspec

EVERY_SECONDS = 0.001  # the kernel makes of it what its tick allows; the samples are weighed by the CPU used


class Sampler:
    """Samples of the main thread, where everything of the server runs."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[CodeType, ...], int] = {}
        self._samples: list[tuple[int, int]] = []

    def take(self, _: int, frame: FrameType | None) -> None:
        """One sample."""
        stack = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        number = self._numbers.setdefault(tuple(stack), len(self._numbers))
        self._samples.append((time.monotonic_ns(), number))

    def write(self, path: str) -> None:
        """All of them."""
        stacks = [[f"{code.co_filename}:{code.co_qualname}" for code in stack] for stack in self._numbers]
        with open(path, "wb") as file:
            file.write(msgspec.msgpack.encode({"stacks": stacks, "samples": self._samples}))


def sampled(path: str, main: Callable[[], None]) -> None:
    """Runs `main` to its end and leaves its samples in a file, which is whole when it is there."""
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.take)
    signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)
    try:
        main()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sampler.write(f"{path}.part")
        os.rename(f"{path}.part", path)
