"""All benchmarks, in the order in which they run."""

from typing import Any

from bench import (
    alone,
    append,
    cpu,
    disk,
    durability,
    edge,
    fanout,
    growth,
    jobs,
    load,
    memory,
    polls,
    replay,
    search,
    storm,
)
from bench.benchmark import Benchmark

ALL: tuple[Benchmark[Any], ...] = (
    append.BENCHMARK,
    load.BENCHMARK,
    search.BENCHMARK,
    fanout.BENCHMARK,
    replay.BENCHMARK,
    polls.BENCHMARK,
    jobs.BENCHMARK,
    edge.BENCHMARK,
    storm.BENCHMARK,
    alone.BENCHMARK,
    durability.BENCHMARK,
    cpu.BENCHMARK,
    memory.BENCHMARK,
    growth.BENCHMARK,
    disk.BENCHMARK,
)
