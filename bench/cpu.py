"""Where the CPU time of a token goes: the server's, by room and stage, from samples; Postgres's beside it."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.benchmark import Benchmark, Report
from bench.figures import charts, rooms
from bench.load import add_loss
from bench.stand.database import Postgres
from bench.traffic import Outcome, Traffic, run, site

TOP = 25


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`, below the most that a server can do: a saturated one profiles its own queues."""

    generations: int = 40
    seconds: float = 20.0


def measure(postgres: Postgres, settings: Settings) -> Report:
    """A run under the sampler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples"
        with postgres.database() as database, site(database, {"BENCH_SAMPLES": str(path)}) as where:
            outcome = run(where, settings, "cpu")
        found = msgspec.msgpack.decode(path.read_bytes())
    return _report(found, outcome)


def _report(found: dict[str, Any], outcome: Outcome) -> Report:
    begin, end = outcome.span
    stacks: list[list[str]] = found["stacks"]
    counts = Counter(number for at, number in found["samples"] if begin <= at <= end)
    whole = sum(counts.values()) or 1
    cost = outcome.cpu("server") / whole  # µs a token that one sample stands for
    by_room: Counter[str] = Counter()
    by_function: dict[str, Counter[str]] = {}
    by_stack: Counter[tuple[str, ...]] = Counter()
    colours: dict[str, int] = {}
    names: dict[str, int] = {}
    for number, count in counts.items():
        name = rooms.room(stacks[number])
        by_room[name] += count
        by_function.setdefault(name, Counter())[rooms.short(stacks[number][0])] += count
        outside_in = rooms.task(stacks[number])
        by_stack[tuple(map(rooms.short, outside_in))] += count
        for frame in outside_in:
            colours[rooms.short(frame)] = names.setdefault(rooms.room([frame]), len(names) % 8)
    stages: Counter[str] = Counter()
    for name, count in by_room.items():
        stages[rooms.stage(name)] += count
    report = Report(
        data={"samples": whole, "tokens_a_second": outcome.tokens_a_second, "loss": outcome.verdict.loss}
    )
    split = {name: count * cost for name, count in stages.most_common()}
    split["committing (Postgres)"] = outcome.cpu("Postgres")
    add_loss(report, outcome.verdict)
    report.add("server, all of it", f"{outcome.cpu('server'):.0f} µs a token, {outcome.busy('server'):.2f} cores")
    for name, micros in split.items():
        report.add(name, f"{micros:.1f} µs a token")
    for name, count in by_room.most_common():
        hottest = ", ".join(f"{one} {n * cost:.1f}" for one, n in by_function[name].most_common(4))
        report.add(f"room: {name}", f"{count * cost:.1f} µs ({100 * count / whole:.0f} %): {hottest}")
    functions = sum(by_function.values(), Counter[str]())
    report.data |= {
        "stages_us_a_token": split,
        "rooms_us_a_token": {name: count * cost for name, count in by_room.most_common()},
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
