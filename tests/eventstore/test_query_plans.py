"""The query plans of the log's statements: each uses an index with a condition, whatever the tables hold.

A plan that was made on empty tables has to be good on large ones. A statement that costs by the size of the
table and not of its answer is found here.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from eventstore import Append, Key, NewEvent, Writer
from eventstore.backend import Listener, ReadQuery, Verdict
from eventstore.postgres import PostgresBackend, PostgresOptions
from eventstore.postgres.db_connection import SESSION_SETTINGS, STATEMENTS
from eventstore.postgres.postgres_backend import append_columns
from tests.eventstore.sample_events import BOUND
from tests.harness.databases import Postgres, TestDatabase

OTHERS = 5_000
GROW = f"""
INSERT INTO eventstore.streams (name, category, head)
SELECT 'other' || n, '', 1 FROM generate_series(1, {OTHERS}) n;
INSERT INTO eventstore.writers SELECT id, 'w', 0, 1, 1, 1, 1 FROM eventstore.streams WHERE name LIKE 'other%'
"""
READ_WHOLE = "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname IN ('streams', 'writers')"
CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND application_name LIKE 'eventstore %'"
ROUNDS = 20


async def test_plans_made_on_empty_tables_do_not_scan_grown_ones(
    postgres: Postgres, database: TestDatabase
) -> None:
    log = PostgresBackend(PostgresOptions(database.app_url, notifications=False, parallel_appends=1))
    streams = [f"s{n}" for n in range(5)]

    async def all_ways(seq: int) -> None:
        tokens = [Append(name, (NewEvent("t", "{}"),), writer=Writer("w", 0, seq)) for name in streams]
        verdicts = [getattr(outcome, "verdict", outcome) for outcome in await log.append(tokens)]
        assert verdicts == [Verdict.APPENDED] * len(streams)
        await log.read([ReadQuery(name, 0, 10) for name in streams])
        await log.heads(streams)

    async with log.open(Listener(newer=lambda _: None, closed=lambda: None)):
        for seq in range(1, ROUNDS):
            await all_ways(seq)
        postgres.sql(GROW, database.name)
        before = int(postgres.sql(READ_WHOLE, database.name))
        for seq in range(ROUNDS, 2 * ROUNDS):
            await all_ways(seq)
    with trio.fail_after(BOUND):  # each tells what it read when it ends
        while postgres.sql(CONNECTED.format(database.name)) != "0":
            await trio.sleep(0.005)
    assert int(postgres.sql(READ_WHOLE, database.name)) - before < OTHERS


# -- every statement, on tables with many rows of every kind

TABLES = ("streams", "events", "writers", "keys", "snapshots")
FILL = """
INSERT INTO eventstore.streams (name, category, head, last_at)
SELECT 's' || n, CASE WHEN n % 10 = 0 THEN 'ephemeral' ELSE 'talk' END, 1, now() FROM generate_series(1, {rows}) n;
INSERT INTO eventstore.events SELECT n, 1, now(), 'token', NULL, '{{}}' FROM generate_series(1, {rows}) n;
INSERT INTO eventstore.writers
SELECT n, 'w', 0, 1, 1, 1, n % 40, n % 100 <> 0, n % 200 = 0 FROM generate_series(1, {rows}) n;
INSERT INTO eventstore.keys
SELECT 'generation', 'gen_' || n, '\\x00', n, 1, 1, CASE WHEN n % 10 = 0 THEN now() + interval '1 day' END
  FROM generate_series(1, {rows}) n;
INSERT INTO eventstore.snapshots SELECT n, 'f', 1, '{{}}' FROM generate_series(1, {rows}) n;
ANALYZE eventstore.streams, eventstore.events, eventstore.writers, eventstore.keys, eventstore.snapshots
"""
SET = "; ".join(
    f"SET {name} = '{value}'" for name, value in SESSION_SETTINGS.items() if not name.startswith("tcp")
)


@pytest.fixture(
    scope="module", params=[100_000, pytest.param(1_000_000, marks=pytest.mark.soak)], ids=["10^5", "10^6"]
)
def large_database(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[tuple[Postgres, str]]:
    """A database with this number of rows in each table."""
    with postgres.clone() as database:
        postgres.sql(FILL.format(rows=request.param), database.name)
        yield postgres, database.name


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read one of the tables, with the condition that an index is asked with."""
    if plan.get("Relation Name") in TABLES or plan.get("Index Name") is not None:
        yield plan
    for inner in plan.get("Plans", ()):
        yield from scans(inner)


def scan_complaints(plan: dict[str, Any]) -> list[str]:
    """The parts of a plan that cost by the size of a table."""
    found = []
    for node in scans(plan):
        kind, where = node["Node Type"], node.get("Relation Name", node.get("Index Name"))
        if kind in ("ModifyTable", "Bitmap Heap Scan"):
            continue  # what they work on is found by the scan below them
        if kind == "Seq Scan" or "Index Cond" not in node:
            found.append(f"{kind} of {where}, index condition {node.get('Index Cond')}")
    return found


@pytest.mark.parametrize("name", [name for name in STATEMENTS if name not in ("revision", "compatible")])
def test_every_statement_uses_an_index(large_database: tuple[Postgres, str], name: str) -> None:
    postgres, database = large_database
    explain = f"{SET}; EXPLAIN (GENERIC_PLAN, FORMAT JSON) {STATEMENTS[name]}"
    ((top, *_),) = [json.loads(postgres.sql(explain, database))]
    assert scan_complaints(top["Plan"]) == []


OLD_EXPIRY = """DELETE FROM keys k USING (
    SELECT scope, name FROM keys WHERE expires_at < clock_timestamp()
     ORDER BY scope, name LIMIT 10000 FOR UPDATE SKIP LOCKED
) old WHERE k.scope = old.scope AND k.name = old.name"""


@pytest.mark.parametrize(
    "sql", [OLD_EXPIRY, "SELECT FROM events WHERE type = 'token'", "SELECT max(id) FROM streams"]
)
def test_table_scan_is_found(large_database: tuple[Postgres, str], sql: str) -> None:
    postgres, database = large_database
    (top,) = json.loads(postgres.sql(f"{SET}; EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}", database))
    assert scan_complaints(top["Plan"])


def sql_literal(value: Any) -> str:
    """A Python value in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "(ARRAY[" + ",".join(map(sql_literal, value)) + "])"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


def call_of(name: str, *batch: Append) -> str:
    """The statement with the batch's values in it."""
    sql = STATEMENTS[name]
    for n, value in reversed(list(enumerate(append_columns(batch, owner=1), 1))):
        sql = sql.replace(f"${n}", sql_literal(value))
    return sql


TOKEN = (NewEvent("token", "{}"),)
NESTED = {
    "one token": call_of("append", Append("s1", TOKEN, writer=Writer("w", 0, 2))),
    "tokens": call_of("append", *(Append(f"s{n}", TOKEN, writer=Writer("w", 0, 2)) for n in (1, 2))),
    "anything": call_of("append", Append("s1", TOKEN, keys=(Key("k", "k", b"1", 5.0),)), Append("new", TOKEN)),
    "somebody speaks": call_of("append_during", Append("s1", TOKEN, during="w")),
    "erasing": "SELECT erase_streams('ephemeral', 1e6, 100)",
}


@pytest.mark.parametrize("what", NESTED)
def test_every_statement_inside_functions_uses_an_index(large_database: tuple[Postgres, str], what: str) -> None:
    postgres, database = large_database
    log = (
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; "
        "SET auto_explain.log_format = json; SET client_min_messages = log; "
        "SET plan_cache_mode = force_generic_plan"
    )
    told = postgres.said(f"{SET}; {log}; BEGIN; {NESTED[what]}; ROLLBACK", database)
    plans = [json.JSONDecoder().raw_decode(part[part.index("{") :])[0] for part in told.split("  plan:")[1:]]
    assert len(plans) > 1
    assert {plan["Query Text"]: found for plan in plans if (found := scan_complaints(plan["Plan"]))} == {}
