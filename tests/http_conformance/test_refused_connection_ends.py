"""The table of connection ends once more, on a server that asks for keys, by clients that have none.

Each request is refused before it holds a stream; whatever state the client is in, and however it leaves, nothing
of its connection is left. Rows of clients that are silent last longest: of these only some are run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import pytest
import trio

from server.ids import new_id
from tests.clients.http1 import Connection
from tests.harness.databases import Postgres

from .conftest import ENV
from .connection_end_clients import EndClient, Logs
from .connection_end_table import ROWS, Row
from .server_probe import Probe, probed
from .test_connection_ends import AT_ONCE, IMPATIENT, LEFT_SECONDS, SILENT_SECONDS

KEYS = {"TOKENTAPE_REQUIRE_KEYS": "true", "TOKENTAPE_ALLOW_ANONYMOUS": ""}
LOG = f"/v1/conversations/{new_id('conv')}"


class RefusedRow(Row):
    """A row whose client is refused: any answer is one."""

    @property
    def may_be_refused(self) -> bool:
        """Always."""
        return True


def refused(rows: Sequence[Row]) -> list[RefusedRow]:
    """Those that can be: an answer of 401 is too short to be read slowly."""
    return [
        RefusedRow(*(getattr(row, one.name) for one in fields(Row))) for row in rows if row.state != "slow reader"
    ]


LEAVING = refused([row for row in ROWS if row.ending != "silence"])
SILENT = refused([row for row in ROWS if row.ending == "silence"][::4])


@dataclass
class Table:
    """Rows after their run; what the server still held of them."""

    held: list[str] = field(default_factory=list)
    readers: dict[str, int] = field(default_factory=dict)
    tasks: Counter[str] = field(default_factory=Counter)
    forgotten: set[int] = field(default_factory=set)
    log: str = ""


async def run(probe: Probe, rows: Sequence[Row], seconds: float) -> Table:
    """All rows side by side, and then what is left of them."""
    table, tasks, limiter = Table(), await probe.tasks(), trio.CapacityLimiter(AT_ONCE)

    async def one(row: Row) -> None:
        async with limiter:
            client = await EndClient.connect(row, Logs(LOG, LOG, LOG, LOG), probe.port)
        async with client.peer, trio.open_nursery() as nursery:
            inode = await probe.inode(client.peer.port)
            if row.goes_on:
                nursery.start_soon(client.bring)
            else:
                await client.bring()
            client.leave()
            until = time.monotonic() + seconds
            while inode in probe.descriptors():
                if time.monotonic() > until:
                    table.held.append(str(row))
                    break
                await trio.sleep(0.2)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for row in rows:
            nursery.start_soon(one, row)
    with trio.move_on_after(LEFT_SECONDS):
        while True:
            table.readers, table.tasks = await probe.readers(), await probe.tasks() - tasks
            table.forgotten = probe.forgotten()
            if not (table.readers or table.tasks or table.forgotten):
                break
            await trio.sleep(0.1)
    async with await Connection.open(probe.port) as connection:
        assert (await connection.ask("GET", "/healthz")).status == 200
        await connection.body()
        assert (await connection.ask("GET", f"{LOG}/events")).status == 401
    table.log = probe.server.logged()
    return table


@pytest.mark.parametrize(
    ("env", "rows", "seconds"),
    [(ENV, LEAVING, LEFT_SECONDS), (IMPATIENT, SILENT, SILENT_SECONDS)],
    ids=["leaving", "silent"],
)
def test_nothing_is_left_of_who_is_refused(
    env: dict[str, str],
    rows: list[Row],
    seconds: float,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with probed(postgres, tmp_path_factory.mktemp("http"), {**env, **KEYS}) as probe:
        table = trio.run(run, probe, rows, seconds)
    assert table.held == []
    assert (table.readers, table.tasks, table.forgotten) == ({}, Counter(), set())
    assert "Traceback" not in table.log, table.log[table.log.index("Traceback") - 500 :][:4_000]
