"""The SQL function `append` in races that need a transaction held open: its verdicts stand on what it has locked."""

import trio

from eventstore import Append, EventStore
from eventstore.postgres import PostgresLog, PostgresOptions
from eventstore.postgres.bridge import Bridge, open_bridge
from eventstore.postgres.columns import append_columns
from eventstore.postgres.session import Session
from eventstore.postgres.statements import STATEMENTS
from tests.eventstore.making import BOUND, names, note, whole
from tests.harness.databases import TestDatabase

OWNER = 7


async def append(session: Session, *batch: Append) -> dict[str, tuple[str, int]]:
    """The verdicts, and the heads they were formed on, by stream."""
    rows = await session.fetch(STATEMENTS["append"], *append_columns(batch, OWNER))
    return {row["stream"]: (row["verdict"], row["head"]) for row in rows}


class Stage:
    """Sessions with names, on one database."""

    def __init__(self, bridge: Bridge, database: TestDatabase) -> None:
        self._bridge = bridge
        self._database = database
        self.sessions: list[Session] = []

    def session(self, name: str) -> Session:
        session = Session(self._bridge, self._database.app_url, f"stage {name}")
        self.sessions.append(session)
        return session

    async def blocked(self, watcher: Session, name: str) -> None:
        """Until that session waits for somebody's lock."""
        sql = "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = $1"
        with trio.fail_after(BOUND):
            while [row[0] for row in await watcher.fetch(sql, f"stage {name}")] != ["Lock"]:
                await trio.sleep(0.005)


async def test_a_stream_that_came_while_it_waited_is_not_written_without_its_lock(database: TestDatabase) -> None:
    async with (
        EventStore(PostgresLog(PostgresOptions(database.app_url))).open() as store,
        open_bridge() as bridge,
        trio.open_nursery() as nursery,
    ):
        stage = Stage(bridge, database)
        holder, judged, rival, watcher = map(stage.session, ("holder", "judged", "rival", "watcher"))
        await store.append(note("there", "opened"))
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name = 'there' FOR UPDATE")
        verdicts: dict[str, tuple[str, int]] = {}

        async def judge() -> None:
            verdicts.update(await append(judged, note("there", "judged"), note("new", "judged", expected=3)))

        nursery.start_soon(judge)
        await stage.blocked(watcher, "judged")  # it has locked what it found: `new` was not among it
        await store.append(note("new", 1, 2, 3))
        await rival.fetch("BEGIN")
        assert await append(rival, note("new", "rival")) == {"new": ("appended", 3)}
        await holder.fetch("COMMIT")
        with trio.move_on_after(0.5):  # without the lock it now runs into the rival's event and waits there
            await stage.blocked(watcher, "judged")
        await rival.fetch("COMMIT")
        with trio.fail_after(BOUND):
            while not verdicts:
                await trio.sleep(0.005)
        assert verdicts == {"there": ("appended", 1), "new": ("wrong_position", 0)}
        assert names(await whole(store, "new")) == ["1", "2", "3", "rival"]
        assert names(await whole(store, "there")) == ["opened", "judged"]
        for session in stage.sessions:
            session.drop()


async def test_a_key_that_another_process_claims_meanwhile_is_waited_for(database: TestDatabase) -> None:
    """The verdict is formed after the wait, and sees what the other has committed, or has not."""
    from eventstore import Key

    for end, verdict in (("COMMIT", "repeated_key"), ("ROLLBACK", "appended")):
        async with open_bridge() as bridge, trio.open_nursery() as nursery:
            stage = Stage(bridge, database)
            rival, judged, watcher = map(stage.session, ("rival", "judged", "watcher"))
            keys = (Key("k", end, b"1"),)
            await rival.fetch("BEGIN")
            assert (await append(rival, note(f"rival {end}", 1, keys=keys)))[f"rival {end}"][0] == "appended"
            found: list[str] = []

            async def judge(judged: Session = judged, keys: tuple[Key, ...] = keys, found: list[str] = found) -> None:
                ((_, (said, _head)),) = (await append(judged, note("judged", 1, keys=keys))).items()
                found.append(said)

            nursery.start_soon(judge)
            await stage.blocked(watcher, "judged")
            await rival.fetch(end)
            with trio.fail_after(BOUND):
                while not found:
                    await trio.sleep(0.005)
            assert found == [verdict]
            for session in stage.sessions:
                session.drop()
