"""Commands on the WebSocket: for its own conversation only, once by their key; and upgrades that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from eventstore import StoreUnavailable
from server.ids import new_id
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.openapi.app import grading, look
from tests.runtime.runtime_process import app as declared
from tokentape import Run, workflow

from .asgi import Answered, Web, web
from .test_commands_refused import Away

KEY = "a-key-of-sixteen"
ASKED = {"model": "fake", "input": "x"}
DIGEST = "0" * 64
SHIP = {"name": "ship", "description": "Sends a parcel.", "approval": "never"}
CONTROLS: dict[str, dict[str, Any]] = {
    "cancel": {"reason": "enough"},
    "steer": {"name": "strictness", "value": 1},
    "budget": {"tokens": 5},
    "decide": {"call": new_id("call"), "decision": "approved", "proposed_digest": DIGEST},
    "tool_result": {"call": new_id("call"), "result": 1},
}


async def run(app: Web) -> tuple[str, str]:
    """A run that stays; its conversation and itself."""
    made = await app.post("/v1/generations", ASKED)
    return made.json["conversation"], made.json["id"]


async def say(app: Web, conversation: str, **command: Any) -> dict[str, Any]:
    """One command on a WebSocket of its own; what it is answered, without what names no fact."""
    answer = await app.upgrade(f"/v1/conversations/{conversation}/ws", texts=[{"id": "c", "key": KEY, **command}])
    (told,) = [frame for frame in answer.frames if frame["kind"] in ("reply", "error")]
    return dict(told)


@pytest.mark.parametrize("do", CONTROLS)
@pytest.mark.parametrize("key", [KEY, "another-key-of-its-own"])
async def test_a_generation_of_another_conversation_is_unknown(do: str, key: str) -> None:
    """Answered to the letter as one that is not there; it goes on, and the key is as unused as before."""
    async with web(fake=FakeUpstream(FOREVER)) as app:
        here, _ = await run(app)
        there, foreign = await run(app)
        told = [
            await say(app, here, do=do, generation=name, **{**CONTROLS[do], "key": key})
            for name in (foreign, new_id("gen"), "gen_x", "", "x" * 5_000)
        ]
        assert told == [told[0]] * len(told)
        assert (told[0]["kind"], told[0]["status"], told[0]["code"]) == ("error", 404, "not_found")
        assert (await app.ask("GET", f"/v1/generations/{foreign}")).json["status"] in ("queued", "running")
        own = await say(app, there, do=do, generation=foreign, **{**CONTROLS[do], "key": key})
        assert own["detail"] != told[0]["detail"] if own["kind"] == "error" else own["status"] == 200


@pytest.mark.parametrize("call", ["", "call_x", "x" * 5_000, "é"])
async def test_a_call_that_cannot_be_is_unknown(call: str) -> None:
    """Whatever length it has: it would be part of the key's name in the database."""
    async with web(fake=FakeUpstream(FOREVER)) as app:
        conversation, generation = await run(app)
        told = await say(app, conversation, do="tool_result", generation=generation, call=call, result=1)
        assert (told["status"], told["code"]) == (404, "not_found")


class Odd(BaseModel):
    """Its own check breaks down."""

    level: int = 0

    @field_validator("level")
    @classmethod
    def _looked_up(cls, level: int) -> int:
        return {0: 0}[level]


@workflow("odd", steering=Odd)
async def odd(run: Run) -> None:
    """Waits for a person."""
    await run.approve("go on")


async def test_a_fault_of_the_app_answers_its_command_and_ends_no_socket() -> None:
    """As by POST. Closed, the client would come back and send the very same again."""
    async with web(registry=declared(odd), expected=2) as app:
        made = (await app.post("/v1/generations", {"workflow": "odd"})).json
        steering = {"name": "level", "value": 7}
        assert (await app.post(f"/v1/generations/{made['id']}/steer", steering)).status == 500
        command = {"key": KEY, "do": "steer", "generation": made["id"], **steering}
        texts = [{"id": "c1", **command}, {"id": "c2", "key": KEY, "do": "post", "role": "user", "content": "x"}]
        answer = await app.upgrade(f"/v1/conversations/{made['conversation']}/ws", texts=texts)
        first, second = [frame for frame in answer.frames if frame["kind"] in ("reply", "error")]
        assert (first["id"], first["kind"], first["code"]) == ("c1", "error", "internal_error")
        assert "7" not in first["detail"]
        assert (second["id"], second["kind"]) == ("c2", "reply")


class Ways:
    """The same command by POST and on a WebSocket; what both say of it."""

    def __init__(self, app: Web, conversation: str, generation: str | None) -> None:
        self._app = app
        self._conversation = conversation
        self._generation = generation

    async def post(self, do: str, fields: dict[str, Any]) -> tuple[Any, ...]:
        """By POST."""
        fields = dict(fields)
        ends = {"post": "messages", "generate": "generations", "decide": "decisions"}
        path = f"/v1/conversations/{self._conversation}/{ends.get(do, do)}"
        if self._generation is not None:
            path = f"/v1/generations/{self._generation}/{ends.get(do, do)}"
            if do == "tool_result":
                path = f"/v1/generations/{self._generation}/tools/{fields.pop('call')}/result"
        answer = await self._app.post(path, fields, {"Idempotency-Key": KEY})
        return answer.status, answer.headers.get("location"), answer.json.get("code"), _facts(answer.json)

    async def websocket(self, do: str, fields: dict[str, Any]) -> tuple[Any, ...]:
        """On a WebSocket that comes and goes."""
        named = {} if self._generation is None else {"generation": self._generation}
        told = await say(self._app, self._conversation, do=do, **named, **fields)
        body = told.get("body", {})
        return told["status"], told.get("location"), told.get("code"), _facts(body)


def _facts(body: dict[str, Any]) -> tuple[Any, ...]:
    return body.get("id"), body.get("position"), body.get("status")


BEGUN: dict[str, dict[str, Any]] = {
    "post": {"role": "user", "content": "once"},
    "generate": {**ASKED, "parameters": {"a": [1, {"b": 2.5}]}},
}


@pytest.mark.parametrize(
    ("first", "second"), [("post", "websocket"), ("websocket", "post"), ("websocket", "websocket")]
)
@pytest.mark.parametrize("do", [*BEGUN, *CONTROLS])
async def test_a_key_acts_once_whichever_way_it_comes(do: str, first: str, second: str) -> None:
    """The first answer again, and nothing appended; another body with it is refused either way."""
    calls = {"calls": [{"name": "ship", "arguments": {}}], "tokens": 2, "rate": 0}
    async with web(fake=FakeUpstream(FOREVER), registry=declared(grading, look)) as app:
        generation, fields = None, BEGUN.get(do, {})
        if do in BEGUN:
            conversation = (await app.post("/v1/conversations", {})).json["id"]
        elif do == "cancel":
            conversation, generation = await run(app)
            fields = CONTROLS["cancel"]
        elif do == "steer":
            made = (await app.post("/v1/generations", {"workflow": "grading", "input": {"pages": 3}})).json
            conversation, generation = made["conversation"], made["id"]
            await _call(app, generation, "finished")
            fields = {"name": "strictness", "value": 1}
        elif do == "budget":
            asked = {"model": "demo", "parameters": {"tokens": 100, "rate": 0}, "budget": {"tokens": 2}}
            made = (await app.post("/v1/generations", asked)).json
            conversation, generation = made["conversation"], made["id"]
            await app.ask("GET", f"/v1/generations/{generation}/events", query="wait=5&types=budget.reached")
            fields = {"tokens": 5_000}
        else:
            asked = {"model": "demo", "parameters": calls}
            tool = {**SHIP, "approval": "always" if do == "decide" else "never"}
            made = (await app.post("/v1/generations", {**asked, "tools": [tool]})).json
            conversation, generation = made["conversation"], made["id"]
            call = await _call(app, generation, "proposed" if do == "decide" else "started")
            digest = {"decision": "rejected", "proposed_digest": call["proposed_digest"]}
            fields = {"call": call["call"], **(digest if do == "decide" else {"result": {"n": 1}})}
        ways = Ways(app, conversation, generation)
        one = await getattr(ways, first)(do, fields)
        assert one[0] in (200, 201, 202), one
        if do in ("cancel", "decide", "tool_result"):  # the run ends by that; let it
            await app.ask("GET", f"/v1/generations/{generation}/events", query="format=sse", whole=True)
        # A run that goes on writes beside the command: of that one only the command's own event counts.
        own = {"steer": "steering.changed", "budget": "budget.raised", "generate": "generation.requested"}
        types = f"?types={own[do]}" if do in own else ""
        path, _, query = f"/v1/conversations/{conversation}/events{types}".partition("?")
        before = (await app.ask("GET", path, query=query)).json["events"]
        for way in (second, first, second):
            assert await getattr(ways, way)(do, fields) == one
        assert (await app.ask("GET", path, query=query)).json["events"] == before
        changed = {"post": "content", "generate": "input", "steer": "value", "tool_result": "result"}
        other = {**fields, "tokens": 9_000} if do == "budget" else {**fields, changed.get(do, "reason"): "y"}
        for way in (first, second):
            assert (await getattr(ways, way)(do, other))[0:3:2] == (422, "key_reused")


async def _call(app: Web, generation: str, status: str) -> dict[str, Any]:
    """The run's first call, as soon as it stands so."""
    etag = ""
    while True:
        query, headers = "wait=5", {"If-None-Match": etag} if etag else {}
        answer = await app.ask("GET", f"/v1/generations/{generation}", headers, query=query)
        etag = answer.headers["etag"]
        calls = answer.json["tool_calls"] if answer.status == 200 else []
        if calls and calls[0]["status"] == status:
            found: dict[str, Any] = calls[0]
            return found


@pytest.mark.parametrize(
    "key", [None, "", "short", "x" * 15, 5, ["x" * 16], "x" * 256, "a key with spaces in it", "é" * 20]
)
@pytest.mark.parametrize("do", ["post", *CONTROLS])
async def test_a_key_that_is_none(do: str, key: object) -> None:
    """16 characters or more, and what the header takes; only cancelling, idempotent by itself, needs none."""
    async with web(fake=FakeUpstream(FOREVER)) as app:
        conversation, generation = await run(app)
        fields = {"role": "user", "content": "x"} if do == "post" else {"generation": generation, **CONTROLS[do]}
        told = await say(app, conversation, do=do, **{**fields, "key": key})
        if key is None and do == "cancel":
            assert told["status"] == 200
        else:
            assert told["kind"] == "error"
            assert told["code"] in ("key_required", "invalid_request", "invalid_idempotency_key")
            assert (await app.ask("GET", f"/v1/generations/{generation}")).json["status"] != "cancelled"


REFUSED = {"draining": "draining", "full": "overloaded", "away": "unavailable"}


@pytest.mark.parametrize(("why", "code"), REFUSED.items())
@pytest.mark.parametrize("address", ["there", "not there", "bad cursor"])
async def test_an_upgrade_that_cannot_be_now_is_refused_before_it(why: str, code: str, address: str) -> None:
    """503 and `Retry-After`: a library backs off where a handshake fails, and not where a socket is closed."""
    log = Away()
    async with web(log, patience=0.1) as app:
        conversation = (await app.post("/v1/conversations", {})).json["id"]
        if address == "not there":
            conversation = new_id("conv")
        if why == "draining":
            app.runtime.drain.begin(10.0)
        elif why == "full":
            for _ in range(app.runtime.drain.most):
                app.runtime.drain.enter()
        else:
            log.away = True
        query = "after=x" if address == "bad cursor" else ""
        answer = await app.upgrade(f"/v1/conversations/{conversation}/ws", query=query)
        if why == "away" and address == "bad cursor":
            assert answer.closed == 4400  # the database need not be asked
            return
        assert not answer.accepted
        assert (answer.status, answer.code) == (503, code)
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("query", "close", "code"),
    [
        ("after=x", 4400, "invalid_cursor"),
        ("after=2", 4400, "cursor_ahead"),
        ("author=", 4400, "invalid_author"),
        ("unknown", 4404, "not_found"),
    ],
)
async def test_what_is_final_is_told_after_the_upgrade(query: str, close: int, code: str) -> None:
    """A page cannot see the status of an upgrade, and its library would come back for ever."""
    async with web() as app:
        conversation = (await app.post("/v1/conversations", {})).json["id"]
        if query == "unknown":
            conversation, query = new_id("conv"), ""
        answer: Answered = await app.upgrade(f"/v1/conversations/{conversation}/ws", query=query)
        assert answer.accepted
        assert [(frame["kind"], frame["code"]) for frame in answer.frames] == [("error", code)]
        assert answer.closed == close


async def test_a_database_that_goes_while_it_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place among the streams is given back."""
    async with web() as app:
        conversation = (await app.post("/v1/conversations", {})).json["id"]

        async def away(_name: str) -> Any:
            raise StoreUnavailable("away")

        monkeypatch.setattr(app.runtime, "head", away)
        assert (await app.upgrade(f"/v1/conversations/{conversation}/ws")).status == 503
        assert len(app.runtime.drain) == 0


@pytest.mark.parametrize("types", ["message.posted", "-token,-conversation.started", None])
async def test_only_the_types_that_are_wanted(types: str | None) -> None:
    """All else goes on as if they had come: `caught_up` at the head, and `resync` by the log's positions."""
    async with web() as app:
        path = f"/v1/conversations/{(await app.post('/v1/conversations', {})).json['id']}"
        for text in ("one", "two"):
            await app.post(f"{path}/messages", {"role": "user", "content": text})
        query = f"types={types}" if types else ""
        answer = await app.upgrade(f"{path}/ws", query=query)
        log = (await app.ask("GET", f"{path}/events")).json["events"]
        told = [frame["event"] for frame in answer.frames if frame["kind"] == "event"]
        assert told == (log[1:] if types else log)
        assert answer.frames[-1] == {"kind": "caught_up", "position": 3}
        again = await app.upgrade(f"{path}/ws", query=f"after=now&{query}", texts=[{"do": "resync", "after": 0}])
        assert again.frames[-1]["kind"] == "reply"


async def test_types_that_are_none_are_final() -> None:
    async with web() as app:
        path = f"/v1/conversations/{(await app.post('/v1/conversations', {})).json['id']}"
        answer = await app.upgrade(f"{path}/ws", query="types=nothing")
        assert ([frame["code"] for frame in answer.frames], answer.closed) == (["invalid_types"], 4400)
