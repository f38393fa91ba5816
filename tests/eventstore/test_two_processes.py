"""Two operating system processes append to the same streams, and read the same log."""

import json
import subprocess
import sys
from typing import Any

import trio

from eventstore import EventStore
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.append_process import STREAMS
from tests.eventstore.sample_events import is_gapless, names, read_all
from tests.harness.databases import TestDatabase

ROUNDS = 30
LIMIT = 60


def run_both(dsn: str) -> list[Any]:
    """What each of the two processes printed; they begin together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.eventstore.append_process", dsn, name, str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=LIMIT)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [json.loads(one) for one in said]


async def test_two_processes_append_to_the_same_streams(database: TestDatabase) -> None:
    one, two = await trio.to_thread.run_sync(run_both, database.app_url)
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store:
        for stream in STREAMS:
            events = await read_all(store, stream)
            assert is_gapless(events)
            claims = list(zip(one["key"][stream], two["key"][stream], strict=True))
            assert len(claims) == ROUNDS
            for mine, theirs in claims:
                assert mine[1:4] == theirs[1:4]
                assert sorted([mine[4], theirs[4]]) == [False, True]
            appended = [theirs if mine[4] else mine for mine, theirs in claims]
            for process in (one, two):
                for kind, times in (("any", ROUNDS), ("writer", ROUNDS), ("during", ROUNDS - 1)):
                    assert [row[4] for row in process[kind][stream]] == [False] * times
                    assert sorted(process[kind][stream], key=lambda row: row[2]) == process[kind][stream]
                    appended += process[kind][stream]
            assert sum(len(said) for said, *_ in appended) == len(events)
            for said, where, first, last, _ in appended:
                assert where == stream
                assert names(events[first - 1 : last]) == said
            # The two took turns: neither waited for the other to be through.
            by_one = [event.position for event in events if names([event])[0].startswith("one any")]
            by_two = [event.position for event in events if names([event])[0].startswith("two any")]
            assert by_one[0] < by_two[-1]
            assert by_two[0] < by_one[-1]
