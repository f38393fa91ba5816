"""Behind a proxy's path: everything that leads somewhere leads back in by it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from eventstore.memory_backend import MemoryBackend
from server.ids import new_id

from .asgi import web

PREFIX = "/tape"
URL = f"https://example.org{PREFIX}"
ASKED = {"model": "fake", "input": "x"}


async def test_locations_lead_back_in() -> None:
    """Of every POST, in every form, and in the replies of a WebSocket."""
    async with web(public_url=URL) as app:
        conversation = await app.post("/v1/conversations", {})
        name = conversation.json["id"]
        message = {"role": "user", "content": "x"}
        answers = [
            conversation,
            await app.post(f"/v1/conversations/{name}/messages", message),
            await app.post(f"/v1/conversations/{name}/generations", ASKED),
            await app.post("/v1/generations", ASKED),
            await app.post("/v1/generations", ASKED, {"Prefer": "respond-async"}),
            await app.post("/v1/generations", ASKED, {"Accept": "text/event-stream"}),
        ]
        answers.append(await app.post(answers[3].headers["location"].removeprefix(PREFIX) + "/cancel", {}))
        for answer in answers:
            location = answer.headers["location"]
            assert location.startswith(f"{PREFIX}/v1/"), location
            path, _, query = location.removeprefix(PREFIX).partition("?")
            assert (await app.ask("GET", path, query=query)).status in (200, 202)
        command = {"id": 1, "key": "a-key-of-sixteen", "do": "post", **message}
        socket = await app.upgrade(f"/v1/conversations/{name}/ws", texts=[command])
        (reply,) = [frame for frame in socket.frames if frame["kind"] == "reply"]
        assert reply["location"].startswith(f"{PREFIX}/v1/conversations/{name}?at=")


@pytest.mark.parametrize("prefix", ["", PREFIX])
async def test_links_lead_back_in(prefix: str) -> None:
    """Of the pages, of their description, and of refusals."""
    settings: dict[str, Any] = {"public_url": URL} if prefix else {}
    async with web(**settings) as app:
        page = {"Accept": "text/html"}
        docs, root = [(await app.ask("GET", path, page, whole=True)).body.decode() for path in ("/docs", "/")]
        links = re.findall(r'href="(/[^"]*)"', docs + root)
        assert len(links) >= 6
        words = (await app.ask("GET", "/")).json
        links += [value for value in words.values() if value.startswith("/")]
        for link in links:
            assert link.startswith(f"{prefix}/")
            assert (await app.ask("GET", link.removeprefix(prefix))).status == 200, link
        described = (await app.ask("GET", "/openapi.json", whole=True)).json
        assert described["servers"] == [{"url": prefix or "/"}]
        missing = await app.ask("GET", f"/v1/generations/{new_id('gen')}")
        path, _, anchor = missing.json["type"].partition("#")
        assert path == f"{prefix}/docs"
        assert f'id="{anchor}"' in docs


async def test_a_410_leads_back_in() -> None:
    """To the snapshot to go on from."""
    async with web(MemoryBackend().process(), public_url=URL) as app:
        name = (await app.post("/v1/conversations", {})).json["id"]
        for _ in range(3):
            await app.post(f"/v1/conversations/{name}/messages", {"role": "user", "content": "x"})
        await app.runtime.store.trim(name, 3)
        gone = await app.ask("GET", f"/v1/conversations/{name}/events", query="after=1")
        assert (gone.status, gone.json["snapshot"]) == (410, f"{PREFIX}/v1/conversations/{name}")
        socket = await app.upgrade(f"/v1/conversations/{name}/ws", query="after=1")
        assert (socket.closed, socket.frames[0]["snapshot"]) == (4410, gone.json["snapshot"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "example.org", "Origin": "https://example.org"}, 201),
        # A proxy that names us as it knows us, and leaves the page's origin as it is.
        ({"Host": "127.0.0.1:8000", "Origin": "https://example.org"}, 201),
        ({"Host": "example.org", "Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
async def test_its_name_and_its_pages_are_ours(headers: dict[str, str], status: int) -> None:
    async with web(public_url=URL) as app:
        assert (await app.post("/v1/conversations", {}, headers)).status == status
