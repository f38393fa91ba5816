"""Messages of several parts, on every transport and up to the provider: uploaded, posted, read, asked about."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
import trio

from tests.clients.api import Api, new_key
from tests.clients.websocket import talk
from tests.harness.databases import TestDatabase
from tests.harness.servers import running
from tests.providers.fake_provider import FakeProvider
from tests.providers.request_validation import reason_to_refuse

PATIENCE = 30.0
PNG = b"\x89PNG\r\n\x1a\n" + b"." * 92
PDF = b"%PDF-1.7" + b"." * 92
TEXT = "naïve".encode()
TYPES = {PNG: "image/png", PDF: "application/pdf", TEXT: "text/plain"}


async def upload(api: Api, data: bytes) -> str:
    """Uploads a file. Returns its digest."""
    headers = {"Content-Type": "application/octet-stream"}
    answer = await api.http.post("/v1/files", content=data, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    digest: str = answer.json()["digest"]
    assert digest == hashlib.sha256(data).hexdigest()
    return digest


async def all_parts(api: Api) -> list[dict[str, Any]]:
    """A text, an image, a PDF and a text file, as a message names them."""
    image, pdf, text = [await upload(api, data) for data in (PNG, PDF, TEXT)]
    return [
        {"type": "text", "text": "see"},
        {"type": "image", "file": image},
        {"type": "file", "file": pdf, "name": "a.pdf"},
        {"type": "file", "file": text, "name": "notes.md"},
    ]


def as_shown(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts as every reader gets them."""
    known = {
        hashlib.sha256(data).hexdigest(): {"media_type": media_type, "size": len(data)}
        for data, media_type in TYPES.items()
    }
    return [{**part, **known.get(part.get("file", ""), {})} for part in parts]


async def test_posted_parts_are_read_as_they_were_posted(api: Api) -> None:
    parts = await all_parts(api)
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/messages", {"role": "user", "content": parts})
    assert answer.status_code == 201, answer.text
    assert answer.json()["content"] == as_shown(parts)
    async with talk(api.port, conversation, after=0) as socket:
        reply = await socket.command("post", role="user", content=parts[1:])
        assert (reply["status"], reply["body"]["content"]) == (201, as_shown(parts[1:]))
        while len(socket.events) < 3:
            await socket.receive()
        assert [event["content"] for event in socket.events[1:]] == [as_shown(parts), as_shown(parts[1:])]
    log = await api.log(conversation)
    assert [event["content"] for event in log[1:]] == [as_shown(parts), as_shown(parts[1:])]
    snapshot = await api.get(conversation)
    assert [message["content"] for message in snapshot["messages"]] == [as_shown(parts), as_shown(parts[1:])]


async def test_demo_says_what_it_was_sent(api: Api) -> None:
    parts = await all_parts(api)
    path = await api.generate(tokens=30, input=[{"role": "user", "content": parts}])
    await api.finished(path)
    said = (await api.get(path))["text"]
    assert said.startswith(
        "You sent a PNG of 100 bytes, a PDF “a.pdf” of 100 bytes and a text “notes.md” of 6 bytes.\n\n"
    )


@pytest.mark.parametrize(
    ("part", "code", "field"),
    [
        ({"type": "image", "file": "0" * 64}, "file_unknown", "content.0.file"),
        ({"type": "file", "file": "0" * 64}, "file_unknown", "content.0.file"),
        ({"type": "image", "file": hashlib.sha256(TEXT).hexdigest()}, "invalid_request", "content.0.file"),
    ],
)
async def test_refused_parts_are_named(api: Api, part: dict[str, Any], code: str, field: str) -> None:
    await upload(api, TEXT)
    conversation = await api.conversation()
    posted = await api.post(f"{conversation}/messages", {"role": "user", "content": [part]})
    asked = await api.post(
        f"{conversation}/generations", {"model": "demo", "input": [{"role": "user", "content": [part]}]}
    )
    async with talk(api.port, conversation, after=0) as socket:
        told = await socket.command("post", role="user", content=[part])
    assert (posted.status_code, asked.status_code, told["status"]) == (422, 422, 422)
    assert (posted.json()["code"], asked.json()["code"], told["code"]) == (code,) * 3
    assert (posted.json()["field"], asked.json()["field"]) == (field, f"input.0.{field}")
    assert (await api.get(conversation))["position"] == 1


async def test_repeated_request_with_files_is_answered_as_before(api: Api) -> None:
    parts = await all_parts(api)
    body = {"model": "demo", "parameters": {"tokens": 3}, "input": [{"role": "user", "content": parts}]}
    key = new_key()
    first, again = [await api.post("/v1/generations", body, idempotency_key=key) for _ in "12"]
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["Location"] == again.headers["Location"]


async def test_each_provider_gets_the_files_in_its_own_form(database: TestDatabase) -> None:
    """Also after a kill of the server: what the conversation holds is loaded from the store of files."""
    async with trio.open_nursery() as nursery:
        fake = await FakeProvider.listen(script="ok-3-0")
        nursery.start_soon(fake.serve)
        env = {
            "OPENAI_BASE_URL": fake.base_url,
            "OPENAI_API_KEY": "test-key",
            "ANTHROPIC_BASE_URL": fake.root_url,
            "ANTHROPIC_API_KEY": "test-key",
        }
        async with running(database.app_url, env) as server:
            async with Api.open(server.port) as api:
                parts = await all_parts(api)
                conversation = await api.conversation()
                answer = await api.post(f"{conversation}/messages", {"role": "user", "content": parts})
                assert answer.status_code == 201, answer.text
            await server.kill()
            await server.start()
            async with Api.open(server.port) as api:
                for model in ("openai/m", "anthropic/m"):
                    asked = await api.post(f"{conversation}/generations", {"model": model, "input": "and?"})
                    assert asked.status_code == 202, asked.text
                    await api.finished(asked.headers["Location"])
                    assert (await api.get(asked.headers["Location"]))["status"] == "completed"
        openai, anthropic = [record.body for record in fake.log]
        nursery.cancel_scope.cancel()
    assert reason_to_refuse(openai) is None
    assert reason_to_refuse(anthropic) is None
    sent = {data: base64.b64encode(data).decode() for data in TYPES}
    assert openai["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{sent[PNG]}"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{sent[PDF]}"}},
        {"type": "text", "text": "notes.md:\n\nnaïve"},
    ]
    image = {"type": "base64", "media_type": "image/png", "data": sent[PNG]}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": sent[PDF]}
    text = {"type": "text", "media_type": "text/plain", "data": "naïve"}
    assert anthropic["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image", "source": image},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": text, "title": "notes.md"},
        {"type": "text", "text": "and?"},  # the request's own input: both are of one turn
    ]
