"""All benchmarks, in the order in which they run."""

from typing import Any

from bench import append, cpu, disk, durability, fanout, jobs, load, memory, polls, replay, search
from bench.benchmark import Benchmark

ALL: tuple[Benchmark[Any], ...] = (
    append.BENCHMARK,
    load.BENCHMARK,
    search.BENCHMARK,
    fanout.BENCHMARK,
    replay.BENCHMARK,
    polls.BENCHMARK,
    jobs.BENCHMARK,
    durability.BENCHMARK,
    cpu.BENCHMARK,
    memory.BENCHMARK,
    disk.BENCHMARK,
)
