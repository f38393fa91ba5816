"""`cpu`: where the CPU time of a token goes: the server's by component and stage, from samples, and Postgres's."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.analysis import charts, cpu_attribution
from bench.benchmark import Benchmark, Report
from bench.benchmarks.load import add_loss
from bench.harness.postgres import Postgres
from bench.traffic import Outcome, Traffic, run, system_under_test

TOP = 25


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`, below the server's capacity: the profile of a saturated server shows its queues."""

    generations: int = 40
    seconds: float = 20.0


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs once under the profiler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples"
        with postgres.database() as database, system_under_test(database, {"BENCH_SAMPLES": str(path)}) as system:
            outcome = run(system, settings, "cpu")
        found = msgspec.msgpack.decode(path.read_bytes())
    return _report(found, outcome)


def _report(found: dict[str, Any], outcome: Outcome) -> Report:
    begin, end = outcome.span
    stacks: list[list[str]] = found["stacks"]
    counts = Counter(number for at, number in found["samples"] if begin <= at <= end)
    whole = sum(counts.values()) or 1
    cost = outcome.cpu("server") / whole  # µs a token that one sample stands for
    by_component: Counter[str] = Counter()
    by_function: dict[str, Counter[str]] = {}
    by_stack: Counter[tuple[str, ...]] = Counter()
    colours: dict[str, int] = {}
    names: dict[str, int] = {}
    for number, count in counts.items():
        name = cpu_attribution.component_of(stacks[number])
        by_component[name] += count
        by_function.setdefault(name, Counter())[cpu_attribution.short_name(stacks[number][0])] += count
        outside_in = cpu_attribution.task_frames(stacks[number])
        by_stack[tuple(map(cpu_attribution.short_name, outside_in))] += count
        for frame in outside_in:
            colours[cpu_attribution.short_name(frame)] = names.setdefault(
                cpu_attribution.component_of([frame]), len(names) % 8
            )
    stages: Counter[str] = Counter()
    for name, count in by_component.items():
        stages[cpu_attribution.stage_of(name)] += count
    report = Report(
        data={"samples": whole, "tokens_a_second": outcome.tokens_a_second, "loss": outcome.delivery.loss}
    )
    split = {name: count * cost for name, count in stages.most_common()}
    split["committing (Postgres)"] = outcome.cpu("Postgres")
    add_loss(report, outcome.delivery)
    report.add("server, all of it", f"{outcome.cpu('server'):.0f} µs a token, {outcome.busy('server'):.2f} cores")
    for name, micros in split.items():
        report.add(name, f"{micros:.1f} µs a token")
    for name, count in by_component.most_common():
        hottest = ", ".join(f"{one} {n * cost:.1f}" for one, n in by_function[name].most_common(4))
        report.add(f"component: {name}", f"{count * cost:.1f} µs ({100 * count / whole:.0f} %): {hottest}")
    functions = sum(by_function.values(), Counter[str]())
    report.data |= {
        "stages_us_a_token": split,
        "components_us_a_token": {name: count * cost for name, count in by_component.most_common()},
        "functions_us_a_token": {name: count * cost for name, count in functions.most_common(TOP)},
    }
    report.pictures["cpu"] = charts.bars("CPU of a token", "µs", split)
    report.pictures["cpu-icicle"] = charts.icicle("Where the server's CPU time goes", by_stack, colours)
    return report


BENCHMARK = Benchmark(
    "cpu",
    "where the CPU time of a token goes",
    Settings(),
    {"generations": 5, "seconds": 3.0, "ramp": 0.2, "delay": 0.2},
    measure,
)
