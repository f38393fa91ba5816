"""Workflows used as jobs: requested, polled, failed, and ephemeral ones erased.

However many clients poll a job, the provider is called once.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
import trio

from tests.clients.api import Api, Event, demo, new_key
from tests.clients.websocket import talk
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.fake_upstream import FakeUpstream, fake_upstream
from tests.harness.servers import Server, running
from tests.openapi.contract import judge_answer

from .command_clients import approval, start_run, wait_until
from .module_servers import APP, serving
from .problem_checks import check_problem

PATIENCE = 40.0
PAUSE = 1.1
"""Seconds that a page takes: more than one, the smallest value of `Retry-After`."""


@pytest.fixture(scope="module")
def job_server(shared_database: TestDatabase) -> Iterator[Server]:
    """A server that erases ephemeral runs after a second, for which it needs the owner's database URL."""
    env = {"TOKENTAPE_EPHEMERAL_SECONDS": "1", "TOKENTAPE_DATABASE_OWNER_URL": shared_database.owner_url}
    with serving(shared_database.app_url, {**APP, **env}) as server:
        yield server
        assert server.process is not None
        assert server.process.poll() is None, server.logged()[-4000:]


@pytest.fixture
async def job_api(job_server: Server) -> AsyncIterator[Api]:
    """A client of that server. Every response is validated against `/openapi.json`."""
    async with Api.open(job_server.port) as api:
        api.http.event_hooks = {"response": [judge_answer]}
        yield api


async def test_job_reports_progress_retry_after_and_result(job_api: Api) -> None:
    """`Retry-After` follows the pace of the job."""
    with trio.fail_after(PATIENCE):
        answer = await job_api.post("/v1/generations", reading_job(3, PAUSE))
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        path = answer.headers["Location"]
        told: list[tuple[float, str | None]] = []
        snapshot = answer.json()
        while not snapshot["finished_at"]:
            polled = await job_api.http.get(path)
            snapshot, retry = polled.json(), polled.headers.get("Retry-After")
            done = snapshot["progress"]["done"] if snapshot["progress"] else 0
            if (done, retry) not in told:
                told.append((done, retry))
            await trio.sleep(0.05)
    paces = paces_of(await job_api.log(path))
    assert len(paces) == 3
    assert all(PAUSE <= pace < 10 for pace in paces), paces
    expected = [(0, "1"), *((done, str(math.ceil(pace))) for done, pace in enumerate(paces, 1))]
    assert [one for one in told if one[1] is not None][:3] == expected[:3]
    done, retry = told[-1]
    assert (done, str(retry)) == (3, "None"), "nothing to come back for"
    assert snapshot["progress"] == {"done": 3, "total": 3, "unit": "pages", "stage": "reading"}
    assert snapshot["result"] == {"read": 3}
    assert snapshot["input"] == {"pages": 3, "pause": PAUSE}


def reading_job(pages: Any, pause: float = 0, **more: Any) -> dict[str, Any]:
    """The request of a job that reads pages."""
    return {"workflow": "reading", "input": {"pages": pages, "pause": pause}, **more}


def paces_of(log: list[Event]) -> list[float]:
    """Seconds between each progress event and the one before it, or the start."""
    times = [event["at"] for event in log if event["type"] in ("generation.started", "progress")]
    moments = [datetime.fromisoformat(at) for at in times]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"pages": 0}, ["input.pages"]),
        ({"pages": "3"}, ["input.pages"]),
        ({}, ["input.pages"]),
        ({"pages": 3, "pause": -1}, ["input.pause"]),
        ({"pages": None, "pause": "x"}, ["input.pages", "input.pause"]),
        ([], ["input"]),
        (None, ["input"]),
    ],
    ids=json.dumps,
)
async def test_invalid_input_gets_422_naming_each_field(api: Api, given: Any, fields: list[str]) -> None:
    """Nothing is appended."""
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/generations", {"workflow": "reading", "input": given})
    problem = check_problem(answer.status_code, answer.headers, answer.content, "invalid_input")
    assert answer.status_code == 422
    assert [error["field"] for error in problem["errors"]] == fields
    assert all(f"{error['field']}: {error['message']}" in problem["detail"] for error in problem["errors"])
    assert len(await api.log(conversation)) == 1


async def test_failing_workflow_reveals_a_reference_only(job_api: Api) -> None:
    """No response holds a word of the exception or its traceback."""
    answer = await job_api.post("/v1/generations", {"workflow": "failing"})
    path = answer.headers["Location"]
    log = await job_api.finished(path)
    assert log[-1]["type"] == "generation.failed"
    error = log[-1]["error"]
    assert error["code"] == "workflow_failed"
    assert error["message"] == f"The workflow failed. The server's log says why, under {error['reference']}."
    assert log[-1]["retryable"] is False
    snapshot = await job_api.get(path)
    assert (snapshot["status"], snapshot["error"], snapshot["result"]) == ("failed", log[-1]["error"], None)
    conversation = f"/v1/conversations/{snapshot['conversation']}"
    for form in ("json", "sse", "ndjson"):
        text = (await job_api.http.get(f"{path}/events?format={form}")).text
        assert error["reference"] in text
        for secret in ("ArithmeticError", "7 numbers", "Traceback", "hunter2", "talking.py", "File \\"):
            assert secret not in text + json.dumps([snapshot, await job_api.get(conversation)])


async def test_ephemeral_run_is_erased_and_then_gets_410(
    job_api: Api, api: Api, postgres: Postgres, shared_database: TestDatabase
) -> None:
    """On every path and every process, and no row of it is left."""
    waiting = await start_run(job_api, "/v1", {"workflow": "asking", "ephemeral": True})
    asked = await wait_until(job_api, waiting, lambda one: one["status"] == "waiting")
    answer = await job_api.post(
        "/v1/generations", reading_job(2, ephemeral=True), idempotency_key=(key := new_key())
    )
    path = answer.headers["Location"]
    conversation = f"/v1/conversations/{answer.json()['conversation']}"
    kept = await start_run(job_api, "/v1", reading_job(2))
    await job_api.finished(kept)
    await job_api.finished(path)
    snapshot = await job_api.http.get(path)
    assert (snapshot.status_code, snapshot.json()["ephemeral"]) == (200, True)
    assert snapshot.json()["result"] == {"read": 2}
    assert (await api.get(path))["result"] == {"read": 2}, "the other process holds its fold"
    async with talk(job_api.port, conversation, "now") as socket:
        assert rows(postgres, shared_database, conversation) != "0|0|0"
        code, reason = await socket.end()  # an open reader is told, and not left waiting
        assert (code, reason) == (4410, "gone")
        assert [message["code"] for message in socket.seen if message["kind"] == "error"] == ["gone"]
    assert rows(postgres, shared_database, conversation) == "0|0|0"
    for client in (job_api, api):
        for gone in (path, f"{path}?at=1", conversation, f"{conversation}?at=1"):
            await check_gone(client, "GET", gone)
            await check_gone(client, "GET", gone, {"If-None-Match": snapshot.headers["ETag"], "Prefer": "wait=5"})
        for events in (f"{path}/events", f"{conversation}/events"):
            for query in ("", "?after=2", "?after=99", "?after=now&wait=5"):
                await check_gone(client, "GET", events + query)
            for form in ("text/event-stream", "application/x-ndjson"):
                await check_gone(client, "GET", events, {"Accept": form})
        for post in (
            f"{path}/cancel",
            f"{path}/steer",
            f"{path}/decisions",
            f"{path}/tools/call_00000000000000000000000000/result",
        ):
            await check_gone(client, "POST", post)
        await check_gone(client, "POST", f"{conversation}/messages")
        await check_gone(client, "POST", f"{conversation}/generations")
        async with talk(client.port, conversation) as socket:
            assert await socket.end() == (4410, "gone")
            assert socket.seen[0]["code"] == "gone"
    again = await job_api.post("/v1/generations", reading_job(2, ephemeral=True), idempotency_key=key)
    assert again.status_code == 410, "the key is kept: it is not done a second time"
    assert (await job_api.get(kept))["result"] == {"read": 2}, "the others are kept"
    assert (await job_api.get(waiting))["status"] == "waiting", (
        "its time begins with its end, and it is the older one"
    )
    assert (await job_api.post(f"{waiting}/decisions", approval(asked["tool_calls"][0]))).status_code == 200
    assert (await job_api.finished(waiting))[-1]["type"] == "generation.completed"
    names = [one["id"] for one in (await job_api.get("/v1/conversations", limit=200))["conversations"]]
    assert conversation.rpartition("/")[2] not in names


TABLES = ("events", "snapshots", "writers")
BODIES: dict[str, dict[str, Any]] = {
    "cancel": {},
    "steer": {"name": "strictness", "value": 1},
    "decisions": approval({"call": "call_x", "proposed_digest": "0" * 64}),
    "result": {"result": 1},
    "messages": {"role": "user", "content": "x"},
    "generations": demo(),
}


async def check_gone(client: Api, method: str, path: str, headers: dict[str, str] | None = None) -> None:
    """Checks for a final 410, never a 404."""
    if method == "POST":
        answer = await client.post(path, BODIES[path.rpartition("/")[2]])
    else:
        answer = await client.http.get(path, headers=headers)
    assert answer.status_code == 410, (path, answer.status_code, answer.text)
    check_problem(410, answer.headers, answer.content, "gone")
    assert "Retry-After" not in answer.headers


def rows(postgres: Postgres, database: TestDatabase, conversation: str) -> str:
    """Number of events, snapshots and writers that the tables hold of the conversation."""
    name = conversation.rpartition("/")[2]
    stream = f"(SELECT id FROM eventstore.streams WHERE name = '{name}')"
    counts = [f"(SELECT count(*) FROM eventstore.{t} WHERE stream = {stream})" for t in TABLES]
    return postgres.sql(f"SELECT {', '.join(counts)}", database.name)


async def poll(api: Api, path: str, how: int) -> dict[str, Any]:
    """Polls in one of four ways until the job is over. Returns the last snapshot."""
    etag = ""
    while True:
        headers = {"If-None-Match": etag} if how % 2 else {}
        if how % 4 > 1:
            headers["Prefer"] = "wait=20"
        answer = await api.http.get(path, headers=headers)
        etag = answer.headers["ETag"]
        if answer.status_code == 200 and answer.json()["finished_at"]:
            found: dict[str, Any] = answer.json()
            return found
        await trio.sleep(0.1)


async def count_upstream_calls(fake: FakeUpstream, api: Api, pollers: int) -> int:
    """Number of calls to the provider for a job that so many clients poll."""
    await fake.reset()
    path = await start_run(api, "/v1", {"workflow": "drafting", "input": "openai/ok-40-100"})
    found: list[dict[str, Any]] = []

    async def one(how: int) -> None:
        found.append(await poll(api, path, how))

    async with trio.open_nursery() as nursery:
        for number in range(pollers):
            nursery.start_soon(one, number)
    assert all(snapshot == found[0] for snapshot in found)
    assert (found[0]["status"], len(found[0]["result"])) == ("completed", 2)
    return len(await fake.log())


async def test_two_hundred_pollers_cause_no_more_upstream_calls_than_one(database: TestDatabase) -> None:
    """All of them get the same result."""
    async with fake_upstream() as fake:
        async with running(database.app_url, {**APP, "OPENAI_BASE_URL": fake.base_url}) as server:
            async with Api.open(server.port) as api:
                with trio.fail_after(PATIENCE):
                    assert await count_upstream_calls(fake, api, 1) == 2
                    assert await count_upstream_calls(fake, api, 200) == 2
            assert "Traceback" not in server.logged()
