"""An SSE client that reconnects with its cursor, and helpers that read a finished log.

The fault tests use it as the reference of a careful client.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
import trio

from tests.harness.http import http_client

TERMINAL = {"generation.completed", "generation.failed", "generation.cancelled"}
Event = dict[str, Any]


@dataclass(eq=False)
class SseReader:
    """Follows an event stream through cuts and restarts, and keeps every event it has received."""

    url: str
    events: list[Event] = field(default_factory=list)
    last_id: str = ""
    done: trio.Event = field(default_factory=trio.Event)
    connections: int = 0

    async def follow(self) -> None:
        """Reads until `[DONE]` or 204."""
        while not self.done.is_set():
            with suppress(httpx2.TransportError, httpx2.StreamError):
                await self._read_once()
            await trio.sleep(0.02)

    async def _read_once(self) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.last_id}
        async with (
            http_client() as client,
            client.stream("GET", self.url, headers=headers) as got,
        ):
            if got.status_code == 204:
                self.done.set()
                return
            assert got.status_code == 200, (got.status_code, await got.aread())
            self.connections += 1
            frame: dict[str, str] = {}
            async for line in got.aiter_lines():
                if line == "":
                    self._take(frame)
                    frame = {}
                else:
                    name, _, value = line.partition(":")
                    frame[name] = value.removeprefix(" ")

    def _take(self, frame: dict[str, str]) -> None:
        if frame.get("data") == "[DONE]":
            self.done.set()
            return
        self.last_id = frame.get("id", self.last_id)
        if "data" in frame:
            self.events.append(msgspec.json.decode(frame["data"]))


async def read_log(url: str, after: int = 0) -> list[Event]:
    """Reads all events after a position, by JSON pages."""
    events: list[Event] = []
    async with http_client() as client:
        while True:
            page = (await client.get(url, params={"after": after, "limit": 5000})).raise_for_status().json()
            events += page["events"]
            after = page["next"]
            if page["up_to_date"]:
                return events


async def wait_closed(url: str, seconds: float = 30.0) -> list[Event]:
    """Waits until the generation has ended. Returns its whole log."""
    with trio.fail_after(seconds):
        async with http_client() as client:
            after, events = 0, list[Event]()
            while True:
                page = (await client.get(url, params={"after": after, "wait": 10})).raise_for_status().json()
                events += page["events"]
                after = page["next"]
                if page["closed"]:
                    return events


def assert_whole(events: list[Event]) -> None:
    """Checks for one start, positions without a gap, and exactly one terminal event, which is the last."""
    positions = [event["position"] for event in events]
    assert positions == list(range(positions[0], positions[0] + len(positions)))
    ends = [event["type"] for event in events if event["type"] in TERMINAL]
    assert len(ends) == 1
    assert events[-1]["type"] in TERMINAL


async def ask(url: str, body: dict[str, Any], conversation: str | None = None) -> dict[str, Any]:
    """Requests a generation. Returns its snapshot."""
    path = f"/v1/conversations/{conversation}/generations" if conversation else "/v1/generations"
    async with http_client() as client:
        got = await client.post(url + path, json=body)
        assert got.status_code == 202, got.text
        snapshot: dict[str, Any] = got.json()
        return snapshot
