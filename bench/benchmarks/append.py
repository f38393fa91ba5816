"""`append`: appends by the store, against the fastest that the same driver does with the same rows and no store.

The baseline (`append_baseline.py`) is asyncpg on plain asyncio: one connection, a table with the same columns,
checks and index, fsync on, one commit for what all streams append together. The fastest of UNNEST, COPY and
executemany counts. Both sides take turns, and the median of the ratios counts, because a shared machine is half as
fast in one minute as in the next. Streams and statements are made before the clock runs, on both sides.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from functools import partial

import trio

from bench.analysis import charts
from bench.benchmark import Benchmark, Report, progress_bar
from bench.benchmarks.append_baseline import BULK_METHODS, BaselineTable, insert_over_asyncio, insert_over_trio
from bench.harness.postgres import Database, Postgres
from eventstore import Append, EventStore, NewEvent, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions

GOAL_STREAMS, GOAL_SHARE, GOAL_TIMES = 64, 60.0, 2.0
WARM_UP_APPENDS = 3
"""Of each stream, before the clock runs: the first creates the stream, the next make the statements' plans."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`streams`: how many append at once; `events`: of one append; `rounds`: appends of each stream.

    `singles`: appends of one event by one stream alone.
    """

    streams: tuple[int, ...] = (1, 8, 64, 256)
    events: int = 5
    rounds: int = 20
    singles: int = 200
    turns: int = 7


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Measures every number of streams, in turns."""
    report = Report()
    shares: dict[str, float] = {}
    with postgres.database() as database:
        table = BaselineTable(database, settings.events, settings.rounds)
        with progress_bar("append", settings.turns * (len(settings.streams) + 1)) as show:
            done = 0
            for streams in settings.streams:
                times: dict[str, list[float]] = {}
                for turn in range(settings.turns):
                    writing = partial(_store_many, database, settings, streams, turn)
                    times.setdefault("store", []).append(trio.run(writing))
                    for method in BULK_METHODS:
                        times.setdefault(method, []).append(
                            asyncio.run(insert_over_asyncio(table, method, streams))
                        )
                    done += 1
                    show(done, f"{streams} streams")
                shares[f"{streams} streams"] = _report_many(report, settings, streams, times)
            alone = _alone(database, table, settings)
    _report_alone(report, settings, alone)
    report.data["percent_of_best_bulk_insert"] = shares
    report.pictures["append"] = charts.bars("Appends, against the best bare bulk insert", "%", shares)
    return report


def _alone(database: Database, table: BaselineTable, settings: Settings) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"store": [], "bare": [], "insert_over_trio": []}
    for turn in range(settings.turns):
        times["store"].append(trio.run(_store_one, database, settings.singles, turn))
        times["bare"].append(asyncio.run(insert_over_asyncio(table, "one", settings.singles)))
        times["insert_over_trio"].append(trio.run(insert_over_trio, table, settings.singles))
    return times


async def _store_many(database: Database, settings: Settings, streams: int, turn: int) -> float:
    events = tuple(NewEvent("token", BaselineTable.DATA, BaselineTable.TAG) for _ in range(settings.events))
    names = [f"many-{streams}-{turn}-{n}" for n in range(streams)]

    async def write(stream: str, first: int, count: int) -> None:
        for n in range(first, first + count):
            await store.append(Append(stream, events, writer=Writer("w", 1, n)))

    async def write_all(first: int, count: int) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(write, name, first, count)

    async with EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store:
        await write_all(1, WARM_UP_APPENDS)
        began = time.perf_counter()
        await write_all(WARM_UP_APPENDS + 1, settings.rounds)
        return time.perf_counter() - began


async def _store_one(database: Database, singles: int, turn: int) -> float:
    event = (NewEvent("token", BaselineTable.DATA, BaselineTable.TAG),)
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store:
        for n in range(1, WARM_UP_APPENDS + 1):
            await store.append(Append(f"one-{turn}", event, writer=Writer("w", 1, n)))
        began = time.perf_counter()
        for n in range(WARM_UP_APPENDS + 1, WARM_UP_APPENDS + singles + 1):
            await store.append(Append(f"one-{turn}", event, writer=Writer("w", 1, n)))
        return time.perf_counter() - began


def _report_many(report: Report, settings: Settings, streams: int, times: dict[str, list[float]]) -> float:
    best = min(BULK_METHODS, key=lambda method: statistics.median(times[method]))
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
        for name in ("bare", "insert_over_trio")
    }
    report.add(
        "append, one alone",
        f"{each['store']:.2f} ms, {ratios['bare']:.2f} x a bare one-row commit ({each['bare']:.2f} ms)",
        f"≤ {GOAL_TIMES:.0f} x",
        ratios["bare"] <= GOAL_TIMES,
    )
    report.add(
        "the same commit, over the store's driver on trio",
        f"{each['insert_over_trio']:.2f} ms; ours {ratios['insert_over_trio']:.2f} x that",
    )
    report.data["seconds_alone"] = times


BENCHMARK = Benchmark(
    "append",
    "appends against a bare bulk insert",
    Settings(),
    {"streams": (1, 8), "rounds": 3, "singles": 10, "turns": 2},
    measure,
)
