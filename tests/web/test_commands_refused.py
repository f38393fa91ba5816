"""A POST that cannot be done now says so by its status, in every form: its client can read one, and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from eventstore import StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.ids import new_id
from server.web.transports.log_reader import find_generation
from tests.generations.unreliable_logs import Wrapped

from .asgi import Web, web

T = TypeVar("T")
ASKED = {"model": "fake", "input": "x"}
SSE = {"Accept": "text/event-stream"}
FORMS: dict[str, dict[str, str]] = {"json": {}, "sse": SSE, "ndjson": {"Accept": "application/x-ndjson"}}
DIGEST = "0" * 64
POSTS: dict[str, Any] = {
    "/v1/conversations": {},
    "/v1/conversations/{conversation}/messages": {"role": "user", "content": "x"},
    "/v1/conversations/{conversation}/generations": ASKED,
    "/v1/generations": ASKED,
    "/v1/generations/{generation}/cancel": {},
    "/v1/generations/{generation}/steer": {"name": "x", "value": 1},
    "/v1/generations/{generation}/budget": {"tokens": 5},
    "/v1/generations/{generation}/decisions": {"call": "x", "decision": "approved", "proposed_digest": DIGEST},
    "/v1/generations/{generation}/tools/{call}/result": {"result": 1},
}
RUNS = [path for path in POSTS if path.endswith("generations")]


class Away(Wrapped):
    """A log that can be away."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend().process())
        self.away = False

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Nothing is heard from it then."""
        if self.away:
            raise StoreUnavailable("away")
        return await call()


async def fill(app: Web, path: str) -> str:
    """The address with a conversation and a generation that are there."""
    ids = {"call": new_id("call")}
    if "{" in path:
        made = await app.post("/v1/generations", ASKED)
        assert made.status == 202
        # It has ended when its stream has.
        log = f"/v1/generations/{made.json['id']}/events"
        assert b"[DONE]" in (await app.ask("GET", log, query="format=sse", whole=True)).body
        ids |= {"generation": made.json["id"], "conversation": made.json["conversation"]}
    return path.format(**ids)


async def assert_refused(app: Web, path: str, form: str, code: str) -> None:
    """A run is: 503, when to come back, and nothing happened."""
    before = await app.ask("GET", "/v1/conversations")
    answer = await app.ask("POST", path, FORMS[form], ASKED, whole=True)
    assert (answer.status, answer.code) == (503, code), answer.body
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["cache-control"] == "no-store"
    assert "location" not in answer.headers
    assert (await app.ask("GET", "/v1/conversations")).body == before.body


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", RUNS)
async def test_a_run_while_the_server_stops(path: str, form: str) -> None:
    async with web() as app:
        here = await fill(app, path)
        app.runtime.drain.begin(10.0)
        await assert_refused(app, here, form, "draining")


@pytest.mark.parametrize("path", RUNS)
async def test_a_stream_where_there_is_no_place_for_one(path: str) -> None:
    """And no run is begun for it; without a stream it is taken."""
    async with web() as app:
        here = await fill(app, path)
        for _ in range(app.runtime.drain.most):
            app.runtime.drain.enter()
        await assert_refused(app, here, "sse", "overloaded")
        assert (await app.post(here, ASKED)).status == 202


@pytest.mark.parametrize("form", FORMS)
async def test_a_run_where_all_places_are_taken(form: str) -> None:
    async with web(max_runs=0) as app:
        await assert_refused(app, "/v1/generations", form, "overloaded")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("key", [None, "a-key-of-sixteen"])
async def test_anything_while_the_database_is_away(path: str, form: str, key: str | None) -> None:
    log = Away()
    async with web(log, patience=0.1) as app:
        here = await fill(app, path)
        log.away = True
        headers = {**FORMS[form], **({"Idempotency-Key": key} if key else {})}
        answer = await app.ask("POST", here, headers, POSTS[path], whole=True)
        assert (answer.status, answer.code) == (503, "unavailable"), answer.body
        assert int(answer.headers["retry-after"]) >= 1
        log.away = False
        assert (await app.ask("POST", here, FORMS[form], POSTS[path], whole=True)).status < 500


@pytest.mark.parametrize("why", ["draining", "overloaded", "unavailable"])
async def test_only_the_stream_of_a_run_that_is_recorded(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 with where it is, one block that says when to come back, and the end: the run goes on."""
    async with web() as app:

        async def then(*asked: Any) -> Any:
            source = await find_generation(*asked)
            if why == "draining":
                app.runtime.drain.begin(10.0)
            elif why == "unavailable":
                raise StoreUnavailable("away")
            while why == "overloaded" and len(app.runtime.drain) < app.runtime.drain.most:
                app.runtime.drain.enter()
            return source

        monkeypatch.setattr("server.web.commands.command_endpoints.find_generation", then)
        answer = await app.ask("POST", "/v1/generations", SSE, ASKED, whole=True)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        assert answer.body.count(b"\n\n") == 1
        assert b"retry: " in answer.body
        assert b"data:" not in answer.body
        assert (await app.ask("GET", answer.headers["location"])).status == 200
