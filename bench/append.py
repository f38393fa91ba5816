"""Appending, against the best that the same driver does with the same rows and no store around it.

Turns are taken (store, bare, store, bare …) and the median of the ratios is what counts: these machines are
half as fast in one minute as in the next.
"""

import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from eventstore import Append, EventStore, NewEvent, Writer
from eventstore.postgres import PostgresLog, PostgresOptions
from eventstore.postgres.bridge import Connection, open_bridge

STREAMS, EVENTS, ROUNDS, TURNS, SINGLES = 64, 5, 20, 7, 200
DATA = '{"delta":"a token "}'
TABLE = "CREATE TABLE IF NOT EXISTS bench_rows (LIKE eventstore.events INCLUDING ALL)"
INSERT = """
INSERT INTO bench_rows (stream, position, at, type, tag, data)
SELECT s, p, clock_timestamp(), t, g, d FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::json[])
       AS u (s, p, t, g, d)
"""


async def measure(app_url: str, owner_url: str) -> list[str]:
    """The lines of the report."""
    async with (
        EventStore(PostgresLog(PostgresOptions(app_url))).open() as store,
        open_bridge() as bridge,
    ):
        bare = await bridge.connect(owner_url, {}, timeout=10, command_timeout=60)
        await bare.fetch(TABLE)
        many, many_ratio = await _compare(partial(_store_many, store), partial(_bare_many, bare))
        one, one_ratio = await _compare(partial(_store_one, store), partial(_bare_one, bare))
        bare.abort()
    events = STREAMS * EVENTS * ROUNDS
    return [
        f"append, {STREAMS} streams at once, {EVENTS} events each: {events / many:,.0f} events/s, "
        f"{100 / many_ratio:.0f} % of a bare bulk insert",
        f"append, one alone: {one / SINGLES * 1000:.2f} ms, {one_ratio:.2f} x a bare one-row commit",
    ]


async def _compare(
    ours: Callable[[int], Awaitable[None]], theirs: Callable[[int], Awaitable[None]]
) -> tuple[float, float]:
    times: list[float] = []
    ratios: list[float] = []
    for turn in range(TURNS):
        first = await _time(ours, turn)
        times.append(first)
        ratios.append(first / await _time(theirs, turn))
    return statistics.median(times), statistics.median(ratios)


async def _time(act: Callable[[int], Awaitable[None]], turn: int) -> float:
    began = time.perf_counter()
    await act(turn)
    return time.perf_counter() - began


async def _store_many(store: EventStore, turn: int) -> None:
    events = tuple(NewEvent("token", DATA, "gen_bench") for _ in range(EVENTS))

    async def write(stream: str) -> None:
        for n in range(1, ROUNDS + 1):
            await store.append(Append(stream, events, writer=Writer("w", 1, n)))

    async with trio.open_nursery() as nursery:
        for n in range(STREAMS):
            nursery.start_soon(write, f"many-{turn}-{n}")


async def _bare_many(connection: Connection, turn: int) -> None:
    rows = STREAMS * EVENTS
    for n in range(ROUNDS):
        streams = [1_000_000 * (turn + 1) + row // EVENTS for row in range(rows)]
        positions = [n * EVENTS + row % EVENTS + 1 for row in range(rows)]
        await connection.fetch(INSERT, streams, positions, ["token"] * rows, ["gen_bench"] * rows, [DATA] * rows)


async def _store_one(store: EventStore, turn: int) -> None:
    for n in range(1, SINGLES + 1):
        event = NewEvent("token", DATA, "gen_bench")
        await store.append(Append(f"one-{turn}", (event,), writer=Writer("w", 1, n)))


async def _bare_one(connection: Connection, turn: int) -> None:
    for n in range(1, SINGLES + 1):
        await connection.fetch(INSERT, [-1 - turn], [n], ["token"], ["gen_bench"], [DATA])
