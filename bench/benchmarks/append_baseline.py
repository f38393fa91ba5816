"""The baseline of `append`: the same rows without a store, over asyncpg on asyncio and over the store's driver.

Rows are made before the clock runs, as the store's events are. The table has the store's columns, checks and
index; the sessions have the store's settings, fsync and synchronous_commit among them.
"""

import datetime
import itertools
import time
from typing import ClassVar

import asyncpg

from bench.harness.postgres import Database
from eventstore.postgres.asyncpg_trio import open_driver
from eventstore.postgres.db_connection import SESSION_SETTINGS

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
BULK_METHODS = ("UNNEST", "COPY", "executemany")
Row = tuple[int, int, datetime.datetime, str, str, str]


class BaselineTable:
    """The table for the baseline's rows: `events` rows for each stream in each of `rounds` commits."""

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
        """Makes new rows, one list for each commit. The first commit is for warming up."""
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
        """Makes one row for each commit. The first commit is for warming up."""
        number, at = next(self._streams), datetime.datetime.now(datetime.UTC)
        return [(number, n + 1, at, "token", self.TAG, self.DATA) for n in range(count + 1)]


async def insert_over_asyncio(table: BaselineTable, method: str, count: int) -> float:
    """The seconds for all rounds of `count` streams; with the method "one", for `count` one-row commits."""
    connection = await asyncpg.connect(table.url, server_settings=dict(SESSION_SETTINGS))
    try:
        first, *rest = [[row] for row in table.singles(count)] if method == "one" else table.batches(count)
        await _write(connection, method, first)
        began = time.perf_counter()
        for rows in rest:
            await _write(connection, method, rows)
        return time.perf_counter() - began
    finally:
        await connection.close()


async def _write(connection: "asyncpg.Connection[asyncpg.Record]", method: str, rows: list[Row]) -> None:
    match method:
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


async def insert_over_trio(table: BaselineTable, count: int) -> float:
    """Returns the seconds for `count` one-row commits from trio, over the driver that the store uses."""
    first, *rest = [(s, p, t, g, d) for s, p, _, t, g, d in table.singles(count)]
    async with open_driver() as driver:
        connection = await driver.connect(table.url, SESSION_SETTINGS, timeout=10, command_timeout=60)
        await connection.fetch(VALUES, *first)
        began = time.perf_counter()
        for row in rest:
            await connection.fetch(VALUES, *row)
        taken = time.perf_counter() - began
        connection.abort()
    return taken
