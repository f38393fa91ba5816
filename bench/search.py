"""How many generations at once hold, and what stops the next step: a full core, all cores, or waiting."""

import os
from dataclasses import dataclass

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.percentiles import spread
from bench.load import GOAL_MS, data_of
from bench.stand.database import Postgres
from bench.stand.watch import OTHERS
from bench.traffic import Outcome, Traffic, run, site

FULL = 0.9
"""A process that uses this much of a core has no more to give."""
GIVE_UP = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """The steps that are tried, each a fresh server and database, until two in a row do not hold."""

    steps: tuple[int, ...] = (25, 50, 100, 125, 150, 175, 200, 250)
    rate: float = 50.0
    seconds: float = 10.0


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Step by step."""
    report = Report()
    found: dict[int, Outcome] = {}
    failed = 0
    for step in settings.steps:
        with postgres.database() as database, site(database) as where:
            outcome = run(where, Traffic(step, settings.rate, settings.seconds), f"{step} generations")
        found[step] = outcome
        between = spread(outcome.verdict.between)
        held = holds(outcome)
        failed = 0 if held else failed + 1
        report.data[str(step)] = data_of(outcome)
        figure = f"p50 {between.p50:.1f}, p99 {between.p99:.1f} ms; {outcome.verdict.loss}; {full(outcome)}"
        report.add(f"{step} generations", figure, f"p99 < {GOAL_MS:.0f} ms, nothing lost", held)
        if failed == GIVE_UP:
            break
    most = max((step for step, outcome in found.items() if holds(outcome)), default=0)
    report.add("the most that holds", f"{most} generations, {most * settings.rate:,.0f} tokens/s")
    curves = {
        name: [(float(step), float(getattr(spread(one.verdict.between), name))) for step, one in found.items()]
        for name in ("p50", "p99")
    }
    report.pictures["search"] = charts.lines(
        f"Generations at once, {settings.rate:g} tokens/s each", "generations", "ms", curves, goal=GOAL_MS
    )
    return report


def holds(outcome: Outcome) -> bool:
    """Whether nothing was lost and 99 of 100 tokens came within the goal."""
    between = outcome.verdict.between
    if not between or outcome.verdict.problems:
        return False
    return outcome.verdict.loss.clean and spread(outcome.verdict.between).p99 < GOAL_MS


def full(outcome: Outcome) -> str:
    """What has no more to give: in words, with every group's cores."""
    said = ", ".join(f"{name} {one.cpu / outcome.seconds:.2f}" for name, one in outcome.use.items())
    ours = {name: one for name, one in outcome.use.items() if name != OTHERS}
    at_its_end = [name for name, one in ours.items() if one.busiest >= FULL * outcome.seconds]
    cores = os.cpu_count() or 1
    if at_its_end:
        return f"a core is full: {' and '.join(at_its_end)} (cores: {said})"
    if sum(one.cpu for one in outcome.use.values()) >= FULL * cores * outcome.seconds > 0:
        return f"all {cores} cores are full (cores: {said})"
    return f"nothing is full (cores: {said})"


BENCHMARK = Benchmark(
    "search", "the most generations that hold", Settings(), {"steps": (2, 4), "seconds": 2.0}, measure
)
