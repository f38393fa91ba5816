"""The append rules exist in Python and in SQL: for any stored state and append, both give the same verdict.

The state is put into the tables by hand, for many unrelated cases at once; so the test also shows that the
verdicts of one batch do not influence each other.
"""

from collections.abc import Sequence
from itertools import count

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import Append, Key, NewEvent, Place, Writer
from eventstore.memory_backend import WriterRow, check_append
from eventstore.postgres.db_connection import ReconnectingConnection
from tests.eventstore.connections import append as append_batch
from tests.eventstore.connections import sessions
from tests.harness.databases import TestDatabase

EVENTS = (NewEvent("noted", "{}"), NewEvent("noted", "[]"))
OWNER = 1

heads = st.integers(0, 3)
rows = st.none() | st.builds(
    WriterRow,
    epoch=st.integers(0, 2),
    seq=st.integers(0, 3),
    first=st.just(1),
    last=st.just(2),
    owner=st.just(OWNER),
    closed=st.booleans(),
)
actors = st.sampled_from(["writer", "closes", "both", "speaks", "nobody"])
digests = st.sampled_from([None, b"a", b"b"])
# A claim: whether there is one, its digest, and which of two appends made it.
claims = st.none() | st.tuples(digests, st.integers(1, 2))
cases = st.tuples(
    heads,
    rows,
    actors,
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(-1, 4),
    st.lists(st.tuples(digests, claims), max_size=2),
)
Case = tuple[int, WriterRow | None, str, int, int, int, list[tuple[bytes | None, tuple[bytes | None, int] | None]]]
names = count()


def drawn_case(case: Case) -> tuple[Append, int, WriterRow | None, list[Place | None]]:
    """The append, and the state that it meets."""
    head, row, actor, epoch, seq, expected, keys = case
    stream = f"s{next(names)}"
    append = Append(
        stream,
        EVENTS,
        expected,
        Writer("w", epoch, seq) if actor in ("writer", "both") else None,
        "w" if actor in ("closes", "both") else None,
        tuple(Key("k", f"{stream} {n}", digest) for n, (digest, _) in enumerate(keys)),
        during="w" if actor == "speaks" else None,
    )
    found = [Place("held", claim[1], claim[1], claim[0]) if claim else None for _, claim in keys]
    meets = row if head and actor != "nobody" else None  # no stream, no writer
    return append, head, meets, found


async def store_state(
    owner: ReconnectingConnection, append: Append, head: int, row: WriterRow | None, found: list[Place | None]
) -> None:
    if head:
        await owner.fetch("INSERT INTO streams (name, category, head) VALUES ($1, '', $2)", append.stream, head)
    if row is not None:
        await owner.fetch(
            "INSERT INTO writers (stream, name, epoch, seq, first, last, owner, closed) "
            "SELECT id, 'w', $2, $3, $4, $5, $6, $7 FROM streams WHERE name = $1",
            append.stream,
            row.epoch,
            row.seq,
            row.first,
            row.last,
            row.owner,
            row.closed,
        )
    for key, place in zip(append.keys, found, strict=True):
        if place is not None:
            await owner.fetch(
                "INSERT INTO keys (scope, name, digest, stream, first, last) "
                "SELECT $1, $2, $3, id, $4, $5 FROM streams WHERE name = 'held'",
                key.scope,
                key.name,
                place.digest,
                place.first,
                place.last,
            )


def test_python_and_sql_give_the_same_verdict(database: TestDatabase) -> None:
    async def compare(posed_cases: Sequence[tuple[Append, int, WriterRow | None, list[Place | None]]]) -> None:
        async with sessions(database.owner_url, "owner") as (owner,), sessions(database.app_url, "app") as (app,):
            sql = "INSERT INTO streams (name, category, head) VALUES ('held', '', 9) ON CONFLICT DO NOTHING"
            await owner.fetch(sql)
            for append, head, row, found in posed_cases:
                await store_state(owner, append, head, row, found)
            answers = await append_batch(app, *(append for append, *_ in posed_cases), owner=OWNER)
            for (append, head, row, found), answer in zip(posed_cases, answers, strict=True):
                said = check_append(append, head, row, tuple(found))
                assert answer["verdict"] == said, (append, head, row, found)
                assert answer["head"] == head
                place = {
                    "appended": (append.stream, head + 1, head + 2),
                    "repeated_seq": (append.stream, 1, 2),
                    "repeated_key": next((("held", one.first, one.last) for one in found if one), None),
                }.get(said)
                if place is not None:
                    assert (answer["stream"], answer["first"], answer["last"]) == place

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(cases, min_size=1, max_size=40))
    def on(drawn: list[Case]) -> None:
        trio.run(compare, [drawn_case(case) for case in drawn])

    on()
