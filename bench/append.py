"""Appending, against the best that the same driver does with the same rows and no store around it.

The bare side: asyncpg on plain asyncio, one connection, a table of the same columns, checks and index, fsync on,
one commit for what the streams append together; whichever of UNNEST, COPY and executemany is fastest counts.
Turns are taken (store, bare, store, bare …) and the median of the ratios counts: machines are half as fast in
one minute as in the next. Streams and statements are made before the clock runs, on both sides.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from functools import partial

import trio

from bench.bare import MANY, Table, bare, bridged
from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.stand.database import Database, Postgres
from bench.stand.progress import bar
from eventstore import Append, EventStore, NewEvent, Writer
from eventstore.postgres import PostgresLog, PostgresOptions

GOAL_STREAMS, GOAL_SHARE, GOAL_TIMES = 64, 60.0, 2.0
WARMING = 3
"""Appends of each stream before the clock runs: the first makes it, the next have the statements planned."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`streams` that append at once, `events` each, `rounds` one after the other; `singles` appends alone."""

    streams: tuple[int, ...] = (1, 8, 64, 256)
    events: int = 5
    rounds: int = 20
    singles: int = 200
    turns: int = 7


def measure(postgres: Postgres, settings: Settings) -> Report:
    """All sizes, in turns."""
    report = Report()
    shares: dict[str, float] = {}
    with postgres.database() as database:
        table = Table(database, settings.events, settings.rounds)
        with bar("append", settings.turns * (len(settings.streams) + 1)) as show:
            done = 0
            for streams in settings.streams:
                times: dict[str, list[float]] = {}
                for turn in range(settings.turns):
                    writing = partial(_store_many, database, settings, streams, turn)
                    times.setdefault("store", []).append(trio.run(writing))
                    for way in MANY:
                        times.setdefault(way, []).append(asyncio.run(bare(table, way, streams)))
                    done += 1
                    show(done, f"{streams} streams")
                shares[f"{streams} streams"] = _report_many(report, settings, streams, times)
            alone = _alone(database, table, settings)
    _report_alone(report, settings, alone)
    report.data["percent_of_best_bulk_insert"] = shares
    report.pictures["append"] = charts.bars("Appends, against the best bare bulk insert", "%", shares)
    return report


def _alone(database: Database, table: Table, settings: Settings) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"store": [], "bare": [], "bridged": []}
    for turn in range(settings.turns):
        times["store"].append(trio.run(_store_one, database, settings.singles, turn))
        times["bare"].append(asyncio.run(bare(table, "one", settings.singles)))
        times["bridged"].append(trio.run(bridged, table, settings.singles))
    return times


async def _store_many(database: Database, settings: Settings, streams: int, turn: int) -> float:
    events = tuple(NewEvent("token", Table.DATA, Table.TAG) for _ in range(settings.events))
    names = [f"many-{streams}-{turn}-{n}" for n in range(streams)]

    async def write(stream: str, first: int, count: int) -> None:
        for n in range(first, first + count):
            await store.append(Append(stream, events, writer=Writer("w", 1, n)))

    async def write_all(first: int, count: int) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(write, name, first, count)

    async with EventStore(PostgresLog(PostgresOptions(database.app_url))).open() as store:
        await write_all(1, WARMING)
        began = time.perf_counter()
        await write_all(WARMING + 1, settings.rounds)
        return time.perf_counter() - began


async def _store_one(database: Database, singles: int, turn: int) -> float:
    event = (NewEvent("token", Table.DATA, Table.TAG),)
    async with EventStore(PostgresLog(PostgresOptions(database.app_url))).open() as store:
        for n in range(1, WARMING + 1):
            await store.append(Append(f"one-{turn}", event, writer=Writer("w", 1, n)))
        began = time.perf_counter()
        for n in range(WARMING + 1, WARMING + singles + 1):
            await store.append(Append(f"one-{turn}", event, writer=Writer("w", 1, n)))
        return time.perf_counter() - began


def _report_many(report: Report, settings: Settings, streams: int, times: dict[str, list[float]]) -> float:
    best = min(MANY, key=lambda way: statistics.median(times[way]))
    share = statistics.median(
        100 * theirs / ours for theirs, ours in zip(times[best], times["store"], strict=True)
    )
    rate = streams * settings.events * settings.rounds / statistics.median(times["store"])
    is_goal = streams == GOAL_STREAMS
    report.add(
        f"append, {streams} streams at once, {settings.events} events each",
        f"{rate:,.0f} events/s, {share:.0f} % of the best bare bulk insert ({best})",
        f"≥ {GOAL_SHARE:.0f} %" if is_goal else "",
        share >= GOAL_SHARE if is_goal else None,
    )
    report.data[f"seconds_{streams}"] = times
    return share


def _report_alone(report: Report, settings: Settings, times: dict[str, list[float]]) -> None:
    each = {name: statistics.median(some) / settings.singles * 1000 for name, some in times.items()}
    ratios = {
        name: statistics.median(ours / other for ours, other in zip(times["store"], times[name], strict=True))
        for name in ("bare", "bridged")
    }
    report.add(
        "append, one alone",
        f"{each['store']:.2f} ms, {ratios['bare']:.2f} x a bare one-row commit ({each['bare']:.2f} ms)",
        f"≤ {GOAL_TIMES:.0f} x",
        ratios["bare"] <= GOAL_TIMES,
    )
    report.add(
        "the same commit, over the bridge", f"{each['bridged']:.2f} ms; ours {ratios['bridged']:.2f} x that"
    )
    report.data["seconds_alone"] = times


BENCHMARK = Benchmark(
    "append",
    "appends against a bare bulk insert",
    Settings(),
    {"streams": (1, 8), "rounds": 3, "singles": 10, "turns": 2},
    measure,
)
