"""A process that appends: run as `python -m tests.eventstore.append_process DSN NAME ROUNDS`.

It prints "ready" when its store is open, begins at the first line it reads, and prints as JSON where its
events landed. Each round appends to all streams at once: without conditions, as a fenced writer, under a key
that the other process claims too, and from the second round on during the run of that writer.
"""

import json
import sys
from collections import defaultdict
from functools import partial

import trio

from eventstore import EventStore, Key, StoreOptions, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.sample_events import sample_append

STREAMS = tuple(f"s{n}" for n in range(5))


async def rounds(store: EventStore, name: str, number: int) -> dict[str, dict[str, list[list[object]]]]:
    """By kind and by stream: the stream, first and last position of each append."""
    landed: dict[str, dict[str, list[list[object]]]] = {
        kind: defaultdict(list) for kind in ("any", "writer", "key", "during")
    }

    async def one(kind: str, stream: str, *said: str, **options: object) -> None:
        appended = await store.append(sample_append(stream, *said, **options))
        landed[kind][stream].append(
            [list(said), appended.stream, appended.first, appended.last, appended.repeated]
        )

    async def go(stream: str) -> None:
        for n in range(1, number + 1):
            async with trio.open_nursery() as nursery:
                kinds: tuple[tuple[str, dict[str, object]], ...] = (
                    ("any", {}),
                    ("writer", {"writer": Writer(name, 1, n)}),
                    ("key", {"keys": (Key("shared", f"{stream} {n}", b"same"),)}),
                    ("during", {"during": name}),
                )
                for kind, options in kinds if n > 1 else kinds[:-1]:
                    said = [f"{name} {kind} {n} {part}" for part in range(n % 3 + 1)]
                    nursery.start_soon(partial(one, kind, stream, *said, **options))

    async with trio.open_nursery() as nursery:
        for stream in STREAMS:
            nursery.start_soon(go, stream)
    return landed


async def main(dsn: str, name: str, number: int) -> None:
    log = PostgresBackend(PostgresOptions(dsn, program=name))
    async with EventStore(log, StoreOptions(call_timeout=60.0)).open() as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.readline)
        sys.stdout.write(json.dumps(await rounds(store, name, number)))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
