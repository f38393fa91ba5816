"""Whose a conversation is: lists, callers of a token with certain conversations, and what is no longer there."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from eventstore.memory_backend import MemoryBackend
from server.auth.jwt_verifier import JwtVerifier
from server.auth.key_set import KeySet
from server.auth.principal import ALL_SCOPES
from server.ids import new_id

from .asgi import Web, web
from .signed_requests import KEY, SignedApp, bearer, every_route

SECRET = OctKey.import_key("a secret of the app, of at least thirty-two bytes", {"alg": "HS256", "kid": "one"})


@asynccontextmanager
async def app_with_tokens(folder: Path) -> AsyncIterator[Web]:
    """An app that takes tokens of an embedding app."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [SECRET.as_dict(private=True)]}))
    key_set = KeySet(str(keys))
    await key_set.load()
    async with web(jwt=JwtVerifier(key_set)) as app:
        yield app


def token(sub: str, tenant: str = "acme", **claims: object) -> dict[str, str]:
    """A user of the app, as headers."""
    given = {"tenant": tenant, "sub": sub, "scopes": sorted(ALL_SCOPES), "exp": time.time() + 600, **claims}
    return {"Authorization": f"Bearer {jwt.encode({'alg': 'HS256', 'kid': 'one'}, given, SECRET)}"}


async def started(app: Web, headers: dict[str, str], title: str) -> str:
    """A new conversation's id."""
    made: str = (await app.post("/v1/conversations", {"title": title}, headers)).json["id"]
    return made


async def listed(app: Web, headers: dict[str, str], limit: int = 50) -> list[str]:
    """The titles of all pages."""
    titles, query = [], f"limit={limit}"
    while True:
        page = (await app.ask("GET", "/v1/conversations", headers, query=query)).json
        titles += [line["title"] for line in page["conversations"]]
        if page["next"] is None:
            return titles
        query = f"limit={limit}&before={page['next']}"


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_a_list_is_one_tenants(limit: int) -> None:
    async with web(require_keys=True) as app:
        made = SignedApp(app)
        acme, rival, new = [
            bearer(await made.key(ALL_SCOPES, tenant)).headers for tenant in ("acme", "rival", "newcomer")
        ]
        for number in range(3):
            await started(app, acme, f"acme {number}")
            await started(app, rival, f"rival {number}")
        assert await listed(app, acme, limit) == ["acme 2", "acme 1", "acme 0"]
        assert await listed(app, rival, limit) == ["rival 2", "rival 1", "rival 0"]
        assert await listed(app, new, limit) == []
        page = (await app.ask("GET", "/v1/conversations", acme, query="limit=1")).json["next"]
        assert await listed_before(app, rival, page) <= {"rival 0", "rival 1", "rival 2"}


async def listed_before(app: Web, headers: dict[str, str], before: str) -> set[str]:
    """The titles of one page."""
    answer = await app.ask("GET", "/v1/conversations", headers, query=f"before={before}")
    return {line["title"] for line in answer.json["conversations"]}


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_a_list_of_certain_conversations(tmp_path: Path, limit: int) -> None:
    """Only those in the token that exist and are the tenant's, the newest first."""
    async with app_with_tokens(tmp_path) as app:
        names = sorted(
            [await started(app, token("ann"), "T") for _ in range(4)]
        )  # by time, but within a millisecond
        foreign = await started(app, token("bob", "rival"), "rival")
        of = [names[2], foreign, names[0], "nonsense", new_id("conv"), names[3]]
        seen, query = [], f"limit={limit}"
        for _ in range(9):
            page = (await app.ask("GET", "/v1/conversations", token("cas", conversations=of), query=query)).json
            seen += [line["id"] for line in page["conversations"]]
            if page["next"] is None:
                break
            query = f"limit={limit}&before={page['next']}"
        assert seen == [names[3], names[2], names[0]]
        assert await listed(app, token("cas", conversations=[]), limit) == []


async def test_a_token_for_certain_conversations_reaches_no_other(tmp_path: Path) -> None:
    """By every route, and by a command of the WebSocket; and it starts none, for it could not read it."""
    async with app_with_tokens(tmp_path) as app:
        names = {}
        for which in ("in it", "not in it"):
            conversation = await started(app, token("ann"), which)
            path = f"/v1/conversations/{conversation}/generations"
            run = await app.post(path, {"model": "fake", "input": "x"}, token("ann"))
            text = {**token("ann"), "Content-Type": "text/plain"}
            file = (await app.ask("POST", "/v1/files", text, which.encode(), whole=True)).json["digest"]
            await app.runtime.files.use("acme", conversation, [file])
            names[which] = {"conversation": conversation, "generation": run.json["id"], "file": file}
        limited = token("ann", conversations=[names["in it"]["conversation"]])
        for route in every_route(app):
            if route.takes_id is None:
                if route.method == "POST" and route.rule in ("/v1/conversations", "/v1/generations"):
                    key = {"Idempotency-Key": KEY}
                    body = {} if route.rule == "/v1/conversations" else {"model": "fake", "input": "x"}
                    assert (await app.post(route.rule, body, {**token("ann"), **key})).status in (201, 202)
                    answer = await app.post(route.rule, body, {**limited, **key})
                    assert (answer.status, answer.code) == (403, "conversations_limited")
                continue
            for which in names:
                path = route.path(names[which][route.takes_id])
                if route.websocket:
                    answer = await app.upgrade(path, limited)
                    assert (answer.closed == 4404) == (which != "in it")
                    continue
                answer = await app.ask(route.method, path, limited, {} if route.method == "POST" else None)
                if which == "in it":
                    known = route.rule.endswith(("/result", "/webhook"))
                    assert answer.status not in (401, 403, 404) or known, (str(route), answer.body)
                else:
                    assert answer.status == 404, str(route)
        command = {"id": "c", "do": "cancel", "generation": names["not in it"]["generation"]}
        path = f"/v1/conversations/{names['in it']['conversation']}/ws"
        assert (await app.upgrade(path, limited, texts=[command])).frames[-1]["code"] == "not_found"


async def test_who_acts_is_who_signed_in(tmp_path: Path) -> None:
    """In `by` of events and of presence; nobody can say otherwise."""
    async with app_with_tokens(tmp_path) as app:
        name = await started(app, token("ann"), "T")
        say = {"role": "user", "content": "x", "author": "Bob"}
        path = f"/v1/conversations/{name}"
        assert (await app.post(f"{path}/messages", say, token("ann"))).json["by"] == "ann"
        texts = [{**say, "id": "c", "do": "post", "key": KEY}]
        answer = await app.upgrade(f"{path}/ws", token("cas"), query="author=Bob", texts=texts)
        presence = next(frame for frame in answer.frames if frame["kind"] == "presence")
        assert [(one["author"], one["by"]) for one in presence["people"]] == [("Bob", "cas")]
        events = (await app.ask("GET", f"{path}/events", token("ann"))).json["events"]
        assert [event["by"] for event in events if event["type"] == "message.posted"] == ["ann", "cas"]
        refused = await app.post(f"{path}/messages", {**say, "by": "dan"}, token("ann"))
        assert refused.status == 422


async def test_idempotency_keys_are_a_callers_own(tmp_path: Path) -> None:
    """Of two users, and of two tenants with a user of one name, each gets what it asked for itself."""
    async with app_with_tokens(tmp_path) as app:
        seen = set()
        for caller in (token("ann"), token("bob"), token("ann", "rival"), token("ann", "default")):
            headers = {**caller, "Idempotency-Key": KEY}
            first = (await app.post("/v1/conversations", {"title": "T"}, headers)).json["id"]
            assert (await app.post("/v1/conversations", {"title": "T"}, headers)).json["id"] == first
            seen.add(first)
        assert len(seen) == 4


async def test_what_was_erased_is_gone_for_its_owner_and_unknown_to_others() -> None:
    """A process that knows whose it was says that it is gone; one that does not tells nobody that it was there."""
    log = MemoryBackend()
    async with web(log.process(), require_keys=True) as app:
        made = SignedApp(app)
        own, other = [bearer(await made.key(ALL_SCOPES, tenant)).headers for tenant in ("acme", "rival")]
        asked = {"model": "fake", "input": "x", "ephemeral": True}
        run = (await app.post("/v1/generations", asked, own)).json
        path = f"/v1/generations/{run['id']}"
        sse = {**own, "Accept": "text/event-stream"}
        assert b"[DONE]" in (await app.ask("GET", f"{path}/events", sse, whole=True)).body
        assert await app.runtime.store.erase_streams("ephemeral", 0) == [run["conversation"]]
        assert (await app.ask("GET", path, own)).status == 410
        unknown = await app.ask("GET", f"/v1/generations/{new_id('gen')}", other)
        answer = await app.ask("GET", path, other)
        assert (answer.status, answer.body) == (404, unknown.body)
    async with web(log.process(), require_keys=True) as cold:
        own = bearer(await SignedApp(cold).key(ALL_SCOPES)).headers
        assert (await cold.ask("GET", path, own)).status == 404
    async with web(log.process()) as cold:
        assert (await cold.ask("GET", path)).status == 410
