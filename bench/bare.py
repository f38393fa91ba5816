"""The same rows without a store: asyncpg on plain asyncio, and one-row commits over the store's own bridge.

Rows are made before the clock runs, as the store's events are. The table is like the store's, with its checks
and its index; the session's settings are the store's, fsync and synchronous_commit among them.
"""

import datetime
import itertools
import time
from typing import ClassVar

import asyncpg

from bench.stand.database import Database
from eventstore.postgres.bridge import open_bridge
from eventstore.postgres.session import GUARDS

COLUMNS = ("stream", "position", "at", "type", "tag", "data")
MAKE = "CREATE TABLE IF NOT EXISTS public.bench_rows (LIKE eventstore.events INCLUDING ALL)"
UNNEST = """
INSERT INTO public.bench_rows (stream, position, at, type, tag, data)
SELECT s, p, clock_timestamp(), t, g, d FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::json[])
       AS u (s, p, t, g, d)
"""
VALUES = """
INSERT INTO public.bench_rows (stream, position, at, type, tag, data)
VALUES ($1, $2, clock_timestamp(), $3, $4, $5)
"""
MANY = ("UNNEST", "COPY", "executemany")
Row = tuple[int, int, datetime.datetime, str, str, str]


class Table:
    """Where bare rows go: `events` for each stream in each of `rounds` commits."""

    DATA: ClassVar[str] = '{"delta":"a token "}'
    TAG: ClassVar[str] = "gen_bench"

    def __init__(self, database: Database, events: int, rounds: int) -> None:
        self.url = database.owner_url
        self.events = events
        self.rounds = rounds
        self._streams = itertools.count(1)
        for statement in ("GRANT CREATE ON SCHEMA public TO tokentape_owner", f"SET ROLE tokentape_owner; {MAKE}"):
            database.sql(statement)

    def batches(self, streams: int) -> list[list[Row]]:
        """New rows, a list a commit; the first is for warming up."""
        numbers = [next(self._streams) for _ in range(streams)]
        at = datetime.datetime.now(datetime.UTC)
        return [
            [
                (number, turn * self.events + n + 1, at, "token", self.TAG, self.DATA)
                for number in numbers
                for n in range(self.events)
            ]
            for turn in range(self.rounds + 1)
        ]

    def singles(self, count: int) -> list[Row]:
        """One row a commit, the first for warming up."""
        number, at = next(self._streams), datetime.datetime.now(datetime.UTC)
        return [(number, n + 1, at, "token", self.TAG, self.DATA) for n in range(count + 1)]


async def bare(table: Table, way: str, count: int) -> float:
    """Seconds for all rounds of `count` streams; with "one", for so many one-row commits."""
    connection = await asyncpg.connect(table.url, server_settings=dict(GUARDS))
    try:
        first, *rest = [[row] for row in table.singles(count)] if way == "one" else table.batches(count)
        await _write(connection, way, first)
        began = time.perf_counter()
        for rows in rest:
            await _write(connection, way, rows)
        return time.perf_counter() - began
    finally:
        await connection.close()


async def _write(connection: "asyncpg.Connection[asyncpg.Record]", way: str, rows: list[Row]) -> None:
    match way:
        case "UNNEST":
            streams, positions, _, types, tags, datas = zip(*rows, strict=True)
            await connection.fetch(UNNEST, streams, positions, types, tags, datas)
        case "COPY":
            await connection.copy_records_to_table(
                "bench_rows", schema_name="public", records=rows, columns=COLUMNS
            )
        case "executemany":
            await connection.executemany(VALUES, [(s, p, t, g, d) for s, p, _, t, g, d in rows])
        case _:
            ((stream, position, _, type_, tag, data),) = rows
            await connection.fetch(VALUES, stream, position, type_, tag, data)


async def bridged(table: Table, count: int) -> float:
    """Seconds for so many one-row commits from trio, over the bridge that the store uses."""
    first, *rest = [(s, p, t, g, d) for s, p, _, t, g, d in table.singles(count)]
    async with open_bridge() as bridge:
        connection = await bridge.connect(table.url, GUARDS, timeout=10, command_timeout=60)
        await connection.fetch(VALUES, *first)
        began = time.perf_counter()
        for row in rest:
            await connection.fetch(VALUES, *row)
        taken = time.perf_counter() - began
        connection.abort()
    return taken
