"""`capacity`: the most generations at once that meet the goal, and what limits the next step.

Each step is a new server and database. What limits it is a full core, all cores, or waiting.
"""

import os
from dataclasses import dataclass

from bench.analysis import charts
from bench.analysis.percentiles import summarise
from bench.benchmark import Benchmark, Report
from bench.benchmarks.load import GOAL_MS, data_of
from bench.harness.postgres import Postgres
from bench.harness.resource_usage import OTHERS
from bench.traffic import Outcome, Traffic, run, system_under_test

FULL = 0.9
"""A process that uses this much of a core has no more to give."""
FAILED_STEPS_TO_STOP = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """`steps`: numbers of generations, tried in this order until two in a row do not meet the goal."""

    steps: tuple[int, ...] = (25, 50, 100, 125, 150, 175, 200, 250)
    rate: float = 50.0
    seconds: float = 10.0


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs step by step."""
    report = Report()
    found: dict[int, Outcome] = {}
    failed = 0
    for step in settings.steps:
        with postgres.database() as database, system_under_test(database) as system:
            outcome = run(system, Traffic(step, settings.rate, settings.seconds), f"{step} generations")
        found[step] = outcome
        between = summarise(outcome.delivery.between)
        held = holds(outcome)
        failed = 0 if held else failed + 1
        report.data[str(step)] = data_of(outcome)
        figure = f"p50 {between.p50:.1f}, p99 {between.p99:.1f} ms; {outcome.delivery.loss}; {full_cores(outcome)}"
        report.add(f"{step} generations", figure, f"p99 < {GOAL_MS:.0f} ms, nothing lost", held)
        if failed == FAILED_STEPS_TO_STOP:
            break
    most = max((step for step, outcome in found.items() if holds(outcome)), default=0)
    report.add("the most that holds", f"{most} generations, {most * settings.rate:,.0f} tokens/s")
    curves = {
        name: [(float(step), float(getattr(summarise(one.delivery.between), name))) for step, one in found.items()]
        for name in ("p50", "p99")
    }
    report.pictures["capacity"] = charts.lines(
        f"Generations at once, {settings.rate:g} tokens/s each", "generations", "ms", curves, goal=GOAL_MS
    )
    return report


def holds(outcome: Outcome) -> bool:
    """Whether nothing was lost and 99 % of the tokens arrived within the goal."""
    between = outcome.delivery.between
    if not between or outcome.delivery.problems:
        return False
    return outcome.delivery.loss.clean and summarise(outcome.delivery.between).p99 < GOAL_MS


def full_cores(outcome: Outcome) -> str:
    """Says which processes use a full core, and how many cores each group uses."""
    used = ", ".join(f"{name} {one.cpu / outcome.seconds:.2f}" for name, one in outcome.use.items())
    ours = {name: one for name, one in outcome.use.items() if name != OTHERS}
    at_its_end = [name for name, one in ours.items() if one.busiest >= FULL * outcome.seconds]
    cores = os.cpu_count() or 1
    if at_its_end:
        return f"a core is full: {' and '.join(at_its_end)} (cores: {used})"
    if sum(one.cpu for one in outcome.use.values()) >= FULL * cores * outcome.seconds > 0:
        return f"all {cores} cores are full (cores: {used})"
    return f"nothing is full (cores: {used})"


BENCHMARK = Benchmark(
    "capacity", "the most generations that hold", Settings(), {"steps": (2, 4), "seconds": 2.0}, measure
)
