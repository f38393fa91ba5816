"""Bare sessions for tests that speak SQL to the log's tables; each is ended with its context."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from eventstore import Append
from eventstore.postgres.bridge import Row, open_bridge
from eventstore.postgres.columns import append_columns, speaks
from eventstore.postgres.session import Session
from eventstore.postgres.statements import STATEMENTS
from tests.eventstore.making import BOUND


@asynccontextmanager
async def sessions(url: str, *names: str) -> AsyncIterator[list[Session]]:
    """One session a name, over one bridge."""
    async with open_bridge() as bridge:
        opened = [Session(bridge, url, f"test {name}") for name in names]
        try:
            yield opened
        finally:
            for session in opened:
                session.drop()


async def append(session: Session, *batch: Append, owner: int = 1) -> Sequence[Row]:
    """What the SQL function answers to the batch."""
    columns = append_columns(batch, owner)
    return await session.fetch(STATEMENTS["append_during" if speaks(columns) else "append"], *columns)


async def blocked(watcher: Session, name: str) -> None:
    """Until the session of that name waits for somebody's lock."""
    sql = "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = $1"
    with trio.fail_after(BOUND):
        while [row[0] for row in await watcher.fetch(sql, f"test {name}")] != ["Lock"]:
            await trio.sleep(0.005)
