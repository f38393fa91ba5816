"""Plain connections for tests that send SQL to the log's tables; each is closed with its context."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from eventstore import Append
from eventstore.postgres.asyncpg_trio import Row, open_driver
from eventstore.postgres.db_connection import STATEMENTS, ReconnectingConnection
from eventstore.postgres.postgres_backend import append_columns, has_during
from tests.eventstore.sample_events import BOUND


@asynccontextmanager
async def sessions(url: str, *names: str) -> AsyncIterator[list[ReconnectingConnection]]:
    """One connection for each name, over one driver."""
    async with open_driver() as driver:
        opened = [ReconnectingConnection(driver, url, f"test {name}") for name in names]
        try:
            yield opened
        finally:
            for session in opened:
                session.disconnect()


async def append(session: ReconnectingConnection, *batch: Append, owner: int = 1) -> Sequence[Row]:
    """The answer of the SQL function `append` to the batch."""
    columns = append_columns(batch, owner)
    return await session.fetch(STATEMENTS["append_during" if has_during(columns) else "append"], *columns)


async def wait_until_blocked(watcher: ReconnectingConnection, name: str) -> None:
    """Waits until the connection of that name waits for a lock."""
    sql = "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = $1"
    with trio.fail_after(BOUND):
        while [row[0] for row in await watcher.fetch(sql, f"test {name}")] != ["Lock"]:
            await trio.sleep(0.005)
