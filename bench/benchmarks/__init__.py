"""The benchmarks, one a file. `ALL` has them in the order in which they run."""

from typing import Any

from bench.benchmark import Benchmark
from bench.benchmarks import (
    append,
    capacity,
    cpu,
    disk,
    durability,
    fanout,
    idle_memory,
    job_polling,
    key_cost,
    load,
    memory_growth,
    reconnect_storm,
    replay,
    request_cost,
    single_stream,
    snapshot_polling,
)

ALL: tuple[Benchmark[Any], ...] = (
    append.BENCHMARK,
    load.BENCHMARK,
    capacity.BENCHMARK,
    fanout.BENCHMARK,
    replay.BENCHMARK,
    snapshot_polling.BENCHMARK,
    job_polling.BENCHMARK,
    request_cost.BENCHMARK,
    key_cost.BENCHMARK,
    reconnect_storm.BENCHMARK,
    single_stream.BENCHMARK,
    durability.BENCHMARK,
    cpu.BENCHMARK,
    idle_memory.BENCHMARK,
    memory_growth.BENCHMARK,
    disk.BENCHMARK,
)
