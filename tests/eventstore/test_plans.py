"""How the server goes about the log's statements: a plan made on empty tables is still good on large ones."""

import trio

from eventstore import Append, NewEvent, Writer
from eventstore.log import Hear, ReadQuery, Verdict
from eventstore.postgres import PostgresLog, PostgresOptions
from tests.eventstore.making import BOUND
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


async def test_tables_that_grew_are_not_read_whole(postgres: Postgres, database: TestDatabase) -> None:
    log = PostgresLog(PostgresOptions(database.app_url, hints=False, lanes=1))
    streams = [f"s{n}" for n in range(5)]

    async def all_ways(seq: int) -> None:
        tokens = [Append(name, (NewEvent("t", "{}"),), writer=Writer("w", 0, seq)) for name in streams]
        verdicts = [getattr(outcome, "verdict", outcome) for outcome in await log.append(tokens)]
        assert verdicts == [Verdict.APPENDED] * len(streams)
        await log.read([ReadQuery(name, 0, 10) for name in streams])
        await log.heads(streams)

    async with log.open(Hear(newer=lambda _: None, closed=lambda: None)):
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
