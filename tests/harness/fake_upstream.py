"""Runs the fake provider of OpenAI's wire format as a process of its own, for end-to-end tests."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from tests.harness.http import http_client
from tests.harness.processes import start


@dataclass(frozen=True, slots=True)
class FakeUpstream:
    """The running fake. `base_url` is the value for OPENAI_BASE_URL."""

    base_url: str

    @property
    def _root(self) -> str:
        return self.base_url.removesuffix("/v1")

    async def log(self) -> list[dict[str, Any]]:
        """One record a request."""
        async with http_client() as client:
            text = (await client.get(f"{self._root}/_log")).text
        return [json.loads(line) for line in text.splitlines()]

    async def closed_by_client(self) -> bool:
        """Whether the newest request's connection was closed by the client before its end.

        The close is in the kernel when the client says so; this process only has to be scheduled to see it.
        """
        with trio.move_on_after(2):
            while True:
                if (await self.log())[-1]["closed_by_client"]:
                    return True
        return False

    async def reset(self) -> None:
        """Forgets its log."""
        async with http_client() as client:
            await client.post(f"{self._root}/_reset")


@asynccontextmanager
async def fake_upstream() -> AsyncIterator[FakeUpstream]:
    """Running for as long as the context."""
    reader, writer = os.pipe()
    process = start(["tests.providers.fake_provider", "--port", "0"], env=os.environ, stdout=writer, stderr=2)
    os.close(writer)
    try:
        async with trio.lowlevel.FdStream(reader) as output:
            line = b""
            while not line.endswith(b"\n"):
                data = await output.receive_some()
                assert data, "the fake provider ended"
                line += data
            yield FakeUpstream(json.loads(line)["base_url"])
    finally:
        process.kill()
        process.wait()
