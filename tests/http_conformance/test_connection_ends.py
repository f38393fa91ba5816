"""However a client leaves, in whatever state: its connection, tasks, stream place and descriptor are gone in time.

The whole table runs at once; then each row is a test of its own. Who goes silent does it to a server that gives up
such clients soon; who closes or resets, to one that would wait for minutes.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import trio

from tests.clients.http1 import Broken, Connection
from tests.clients.http2 import Stream, connect
from tests.harness.databases import Postgres

from .conftest import ENV, make_logs
from .connection_end_clients import EndClient, Logs
from .connection_end_table import ALL_ROWS, ENDINGS, REQUESTS, ROWS, STATES, Row
from .server_probe import Probe, probed

LEFT_SECONDS = 10.0
"""From the moment a client has left until nothing of its connection is held. On a busy machine."""
SILENT_SECONDS = 50.0
"""Head and body of a request have 6 s here, a held poll 3, a stall and an idle connection 5 each."""
AT_ONCE = 30


@dataclass
class Outcome:
    """What became of a row. `seconds` is None for a connection that was still held at the end."""

    seconds: float | None = None
    trouble: str | None = None


@dataclass
class Table:
    """Rows after their run, and what the server still held of them. `live`: readers that had to be kept."""

    outcomes: dict[Row, Outcome]
    live: dict[str, bool] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    tasks: Counter[str] = field(default_factory=Counter)
    forgotten: set[int] = field(default_factory=set)
    answers: bool = False
    log: str = ""


class Run:
    """Runs rows against one server."""

    def __init__(self, probe: Probe, rows: Sequence[Row]) -> None:
        self._probe = probe
        self._rows = rows
        self._logs: Logs
        self._table = Table({row: Outcome() for row in rows})
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._waiting = len(rows)
        self._all_ready = trio.Event()
        self._held: set[int] = set()

    async def run(self) -> Table:
        """All rows side by side beside readers that stay, and then what is left of them."""
        table, probe = self._table, self._probe
        self._logs = await make_logs(probe.port)
        await probe.check_answers(self._logs.small)
        with trio.move_on_after(LEFT_SECONDS):  # until the check's own stream has ended
            while await probe.readers():
                await trio.sleep(0.1)
        tasks = await probe.tasks()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            async with await Connection.open(probe.port) as sse, connect(probe.port) as http2:
                stream = await http2.request("GET", f"{self._logs.quiet}/events?format=sse&after=now")
                await sse.ask("GET", f"{self._logs.quiet}/events?format=sse&after=now")
                async with trio.open_nursery() as rows:
                    for row in self._rows:
                        rows.start_soon(self._row, row)
                table.live = {"http1": await heartbeats(sse), "http2": await heartbeats(stream)}
            nursery.cancel_scope.cancel()
        with trio.move_on_after(LEFT_SECONDS):
            while True:
                table.readers = await probe.readers()
                table.tasks = await probe.tasks() - tasks
                table.forgotten = probe.forgotten()
                if not (table.readers or table.tasks or table.forgotten):
                    break
                await trio.sleep(0.1)
        with suppress(AssertionError, OSError, Broken, trio.TooSlowError):
            await probe.check_answers(self._logs.small)
            table.answers = True
        table.log = probe.server.logged()
        return table

    async def _watch(self) -> None:
        while True:
            self._held = self._probe.descriptors()
            await trio.sleep(0.1)

    async def _row(self, row: Row) -> None:
        outcome = self._table.outcomes[row]
        await self._limiter.acquire_on_behalf_of(row)
        client = await EndClient.connect(row, self._logs, self._probe.port)
        async with client.peer:
            inode = 0
            try:
                inode = await self._probe.inode(client.peer.port)
                if not row.goes_on:
                    await client.bring()
            except (OSError, AssertionError, trio.TooSlowError) as error:
                outcome.trouble = "".join(traceback.format_exception(error))
            finally:
                self._limiter.release_on_behalf_of(row)
            await self._ready()
            async with trio.open_nursery() as nursery:
                if row.goes_on:
                    nursery.start_soon(client.bring)
                client.leave()
                began = time.monotonic()
                with trio.move_on_after(SILENT_SECONDS if row.ending == "silence" else LEFT_SECONDS):
                    while inode in self._held:
                        await trio.sleep(0.1)
                    outcome.seconds = time.monotonic() - began
                nursery.cancel_scope.cancel()

    async def _ready(self) -> None:
        """Waits for all others, and until the polls are held."""
        self._waiting -= 1
        if self._waiting == 0:
            await self._polls_are_held()
            self._all_ready.set()
        await self._all_ready.wait()

    async def _polls_are_held(self) -> None:
        """Until the server holds those whose whole request has come; they do not show in any other way."""
        polls = [row for row in self._rows if row.request == "held poll" and row.state != "a byte a second"]
        if self._rows[0].ending != "silence":
            with trio.move_on_after(LEFT_SECONDS):
                while (await self._probe.readers()).get("long_poll", 0) < len(polls) // 2:
                    await trio.sleep(0.1)


async def heartbeats(stream: Connection | Stream) -> bool:
    """Whether an event stream still gives signs of life."""
    for _ in range(2):
        with trio.move_on_after(LEFT_SECONDS), suppress(Broken):
            while b":" in await stream.receive():
                return True
    return False


IMPATIENT = {**ENV, "TOKENTAPE_STALL_TIMEOUT": "5", "TOKENTAPE_KEEP_ALIVE": "5", "EDGE_REQUEST_SECONDS": "6"}


@pytest.fixture(scope="module")
def tables(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """The table after its run: those who leave, and those who are silent."""
    found: dict[str, Table] = {}
    rows = {
        "leaving": [row for row in ROWS if row.ending != "silence"],
        "silent": [row for row in ROWS if row.ending == "silence"],
    }

    async def run(name: str, probe: Probe) -> None:
        found[name] = await Run(probe, rows[name]).run()

    async def run_both(patient: Probe, impatient: Probe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "leaving", patient)
            nursery.start_soon(run, "silent", impatient)

    with (
        probed(postgres, tmp_path_factory.mktemp("http"), ENV) as patient,
        probed(postgres, tmp_path_factory.mktemp("http"), IMPATIENT) as impatient,
    ):
        trio.run(run_both, patient, impatient)
    return found


@pytest.fixture(params=["leaving", "silent"])
def table(request: pytest.FixtureRequest, tables: dict[str, Table]) -> Table:
    """Each half of it."""
    half: Table = tables[request.param]
    return half


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_connection_is_gone(tables: dict[str, Table], row: Row) -> None:
    """The descriptor, and with it all that would have to be there to close it."""
    outcome = tables["silent" if row.ending == "silence" else "leaving"].outcomes[row]
    assert outcome.trouble is None
    assert outcome.seconds is not None, "the server still holds the connection"


def test_every_combination_is_a_row_or_left_out_by_a_rule() -> None:
    """None is missing by oversight."""
    left_out = [row for row in ALL_ROWS if row.left_out is not None]
    assert len(ROWS) + len(left_out) == 2 * 6 * 8 * 3
    assert len(ROWS) >= 150
    for field_name, values in (("request", REQUESTS), ("state", STATES), ("ending", ENDINGS)):
        assert {getattr(row, field_name) for row in ROWS} == set(values)


def test_no_stream_place_is_left(table: Table) -> None:
    """`TOKENTAPE_MAX_STREAMS` would count them for ever."""
    assert table.readers == {}


def test_no_task_is_left(table: Table) -> None:
    """By the names of the server's trio tasks."""
    assert table.tasks == Counter()


def test_no_descriptor_is_left_of_a_connection_that_is_gone(table: Table) -> None:
    """Sockets that only the process still knows."""
    assert table.forgotten == set()


def test_readers_beside_the_table_are_kept(table: Table) -> None:
    """Quiet ones that take all that is sent: silence is no fault of theirs."""
    assert table.live == {"http1": True, "http2": True}


def test_the_server_answers_as_before(table: Table) -> None:
    """A plain request, a stream; and nothing unforeseen in its log."""
    assert table.answers
    assert "Traceback" not in table.log, table.log[table.log.index("Traceback") - 500 :][:4_000]
