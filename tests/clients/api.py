"""A client of the JSON API, for what a test needs around its subject: create, wait for, read as pages."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx2
import trio

Event = dict[str, Any]
TERMINAL = {"generation.completed", "generation.failed", "generation.cancelled"}
PATIENCE = 40.0


class Api:
    """A client of one server. `http` is the HTTP client underneath."""

    def __init__(self, port: int, http: httpx2.AsyncClient) -> None:
        self.port = port
        self.http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[Self]:
        """Opens a client with many connections and a timeout longer than any long poll."""
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=50)
        url = f"http://127.0.0.1:{port}"
        # No TLS here, and reading the certificates would take longer than most tests.
        async with httpx2.AsyncClient(base_url=url, timeout=60.0, limits=limits, verify=False) as http:
            yield cls(port, http)

    async def get(self, path: str, /, **query: Any) -> Any:
        """The JSON of a GET that must succeed."""
        answer = await self.http.get(path, params=query)
        assert answer.status_code == 200, (path, query, answer.status_code, answer.text)
        return answer.json()

    async def post(self, path: str, body: object, /, **headers: str) -> httpx2.Response:
        """Sends a POST; `idempotency_key="…"` becomes the header of that name."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps(body).encode()  # in ASCII: it can carry what is no text
        return await self.http.post(path, content=content, headers={"Content-Type": "application/json", **named})

    async def conversation(self, **fields: Any) -> str:
        """Creates a conversation. Returns its path."""
        answer = await self.post("/v1/conversations", fields)
        assert answer.status_code == 201, answer.text
        location: str = answer.headers["Location"]
        return location

    async def message(self, conversation: str, content: str = "And another thing.") -> Event:
        """Posts a message. Returns its event."""
        answer = await self.post(f"{conversation}/messages", {"role": "user", "content": content})
        assert answer.status_code == 201, answer.text
        event: Event = answer.json()
        return event

    async def generate(
        self, conversation: str = "/v1", *, tokens: int = 5, rate: float = 0, seed: int = 1, **fields: Any
    ) -> str:
        """Starts a run of the demo model, in a new conversation if none is given. Returns its path."""
        answer = await self.post(f"{conversation}/generations", demo(tokens, rate, seed, **fields))
        assert answer.status_code == 202, answer.text
        location: str = answer.headers["Location"]
        return location

    async def finished(self, generation: str) -> list[Event]:
        """Waits for a generation's end. Returns its whole log."""
        with trio.fail_after(PATIENCE):
            page = await self.get(f"{generation}/events", limit=5000, wait=20)
            events: list[Event] = page["events"]
            while not page["closed"]:
                page = await self.get(f"{generation}/events", after=page["next"], wait=20, limit=5000)
                events += page["events"]
        return events

    async def reached(self, log: str, count: int) -> list[Event]:
        """Waits until a log has that many events. Returns the events it has then."""
        events: list[Event] = []
        after = 0
        with trio.fail_after(PATIENCE):
            while len(events) < count:
                page = await self.get(f"{log}/events", after=after, wait=20)
                events += page["events"]
                after = page["next"]
        return events

    async def log(self, of: str) -> list[Event]:
        """Returns all events that exist now."""
        events: list[Event] = []
        page = {"next": 0, "up_to_date": False}
        while not page["up_to_date"]:
            page = await self.get(f"{of}/events", after=page["next"], limit=5000)
            events += page["events"]
        return events

    @asynccontextmanager
    async def busy(self, conversation: str, *, rate: float = 0.01) -> AsyncIterator[str]:
        """Keeps a generation running within the context; it has started and writes next to nothing."""
        generation = await self.generate(conversation, tokens=1000, rate=rate)
        await self.reached(generation, 2)
        try:
            yield generation
        finally:
            answer = await self.post(f"{generation}/cancel", {})
            assert answer.status_code == 200, answer.text


def demo(tokens: int = 5, rate: float = 0, seed: int = 1, **fields: Any) -> dict[str, Any]:
    """The body of a POST for a demo run."""
    return {"model": "demo", "parameters": {"tokens": tokens, "rate": rate, "seed": seed}, **fields}


def new_key() -> str:
    """An idempotency key."""
    return secrets.token_hex(16)
