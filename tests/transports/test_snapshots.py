"""A snapshot at a position must be the fold of the events up to it.

For every position, on two processes, while the run goes on and later.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.clients.api import TERMINAL, Api, Event
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server

from .command_clients import run_with_interventions
from .module_servers import serving
from .snapshot_model import fold_conversation, fold_generation, seen_conversation, seen_generation

PATIENCE = 60.0


@pytest.fixture(scope="module")
def second_server(shared_database: TestDatabase) -> Iterator[Server]:
    """Another server process on the same database."""
    with serving(shared_database.app_url) as server:
        yield server
        assert "Traceback" not in server.logged()


@pytest.fixture
async def second_api(second_server: Server) -> AsyncIterator[Api]:
    """A client of the second server."""
    async with Api.open(second_server.port) as api:
        yield api


def name_of(path: str) -> str:
    """The id in a path."""
    return path.rpartition("/")[2]


async def varied_conversation(api: Api) -> tuple[str, list[str], list[Event]]:
    """A conversation with messages, a finished and a cancelled run, and two that people intervened in. Returns
    its path, its runs and its log.
    """
    conversation = await api.conversation(title="T", metadata={"x": {"y": [1]}})
    await api.message(conversation, "one")
    first = await api.generate(conversation, tokens=60, input="two")
    await api.finished(first)
    second = await api.generate(conversation, tokens=100_000, rate=500)
    await api.reached(second, 30)
    await api.message(conversation, "meanwhile")
    await api.post(f"{second}/cancel", {"reason": "enough"})
    talked = await run_with_interventions(api, conversation)
    return conversation, [first, second, *talked], await api.log(conversation)


async def test_snapshot_at_every_position_on_two_processes(api: Api, second_api: Api) -> None:
    """In random order, on both at once."""
    conversation, generations, log = await varied_conversation(api)
    limiter = trio.CapacityLimiter(16)

    async def check(client: Api, k: int) -> None:
        async with limiter:
            snapshot = await client.get(conversation, at=k)
            assert seen_conversation(snapshot) == fold_conversation(log[:k], name_of(conversation))
            for path in generations:
                expected = fold_generation(log[:k], name_of(path))
                if expected is not None:
                    assert seen_generation(await client.get(path, at=k)) == expected

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for k in random.Random(1).sample(range(1, len(log) + 1), len(log)):
                for client in (api, second_api):
                    nursery.start_soon(check, client, k)


async def test_snapshots_of_a_running_generation_on_two_processes(api: Api, second_api: Api) -> None:
    """No process goes back to an earlier position."""
    conversation = await api.conversation()
    generation = await api.generate(conversation, tokens=200, rate=150)
    taken: list[dict[str, object]] = []
    whole: list[dict[str, object]] = []

    async def watch(client: Api) -> None:
        position = 0
        while True:
            snapshot = await client.get(generation)
            assert snapshot["position"] >= position
            position = snapshot["position"]
            taken.append(snapshot)
            whole.append(await client.get(conversation))
            if snapshot["status"] == "completed":
                return

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for client in (api, second_api) * 3:
                nursery.start_soon(watch, client)
    log = await api.log(conversation)
    for snapshot in taken:
        events = [event for event in log if event["position"] <= snapshot["position"]]
        assert seen_generation(snapshot) == fold_generation(events, name_of(generation))
    for snapshot in whole:
        events = [event for event in log if event["position"] <= snapshot["position"]]
        assert seen_conversation(snapshot) == fold_conversation(events, name_of(conversation))
    assert len({str(snapshot["position"]) for snapshot in taken}) > 10


async def test_event_acknowledged_by_one_process_is_visible_on_the_other(api: Api, second_api: Api) -> None:
    """At once after the 201."""
    conversation = await api.conversation()
    for number in range(30):
        writer, reader = (api, second_api) if number % 2 else (second_api, api)
        before = (await reader.http.get(conversation)).headers["ETag"]
        message = await writer.message(conversation, str(number))
        position = message["position"]
        changed = await reader.http.get(conversation, headers={"If-None-Match": before})
        assert (changed.status_code, changed.json()["position"]) == (200, position)
        assert (await reader.get(f"{conversation}/events", after=position))["events"] == []
        assert (await reader.get(f"{conversation}/events", after=position - 1))["events"] == [message]
        assert (await reader.get(conversation, at=position))["messages"][-1]["content"] == str(number)


async def test_run_of_one_process_is_read_and_cancelled_on_the_other(api: Api, second_api: Api) -> None:
    conversation = await api.conversation()
    async with api.busy(conversation, rate=50) as generation:
        await second_api.reached(generation, 20)
        answer = await second_api.post(f"{generation}/cancel", {})
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        with trio.fail_after(PATIENCE):
            assert await second_api.finished(generation) == await api.finished(generation)
    log = await second_api.log(generation)
    assert [event["type"] for event in log if event["type"] in TERMINAL] == ["generation.cancelled"]


async def test_snapshot_ahead_of_the_log_gets_400_with_the_head(api: Api) -> None:
    """Like a cursor ahead of the log."""
    conversation, generations, log = await varied_conversation(api)
    for path in (conversation, *generations):
        answer = await api.http.get(path, params={"at": len(log) + 1})
        assert (answer.status_code, answer.json()["code"]) == (400, "cursor_ahead")
        assert answer.json()["head"] == len(log)


async def test_snapshot_before_the_generation_existed_gets_404(api: Api) -> None:
    conversation = await api.conversation()
    await api.message(conversation)
    generation = await api.generate(conversation)
    await api.finished(generation)
    assert (await api.http.get(generation, params={"at": 2})).status_code == 404
    assert (await api.get(conversation, at=2))["generations"] == []


@pytest.mark.parametrize("ending", ["", "/events", "/events?format=sse", "/events?format=ndjson", "?at=1"])
@pytest.mark.parametrize("kind", ["conversations", "generations"])
async def test_unknown_ids_all_get_the_same_error(api: Api, kind: str, ending: str) -> None:
    """Otherwise a stranger could find out which ids exist."""
    conversation = name_of(await api.conversation())
    generation = name_of(await api.generate())
    wrong = generation if kind == "conversations" else conversation
    right = conversation if kind == "conversations" else generation
    prefix = right[: right.index("_") + 1]
    # What could be an id is answered by its endpoint; what could not, by the router.
    could = [
        right[:-1] + "0" * (right[-1] != "0") + "1" * (right[-1] == "0"),
        prefix + "0" * 26,
        prefix + "Z" * 26,
    ]
    could_not = [wrong, right[:-1], right.upper()]
    could_not += ["x", "conv_", "gen_x", "0", "%00", "%ff", "a" * 3000, "'%20OR%201=1", "é"]
    for names in (could, could_not):
        answers = [await api.http.get(f"/v1/{kind}/{name}{ending}") for name in names]
        assert [answer.status_code for answer in answers] == [404] * len(names)
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].headers["Content-Type"] == "application/problem+json"
