"""The fake provider as end-to-end tests use it: a process with controls over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import trio
from trio.testing import MockClock

from server.providers import OpenAISettings
from server.providers.openai import OpenAI

from .answer_reader import prompt, read_answer
from .fake_provider import FakeProvider
from .fake_wire_formats import words

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def fake_process(*options: str) -> AsyncIterator[int]:
    """The port of a fake that runs as a process."""
    command = [sys.executable, "-m", "tests.providers.fake_provider", "--port", "0", *options]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(1000)
        started = json.loads(line)
        assert started["base_url"] == f"http://127.0.0.1:{started['port']}/v1"
        yield started["port"]
    finally:
        process.kill()
        with trio.fail_after(5, shield=True):
            await process.wait()
            if process.stdout:
                await process.stdout.aclose()


async def get(port: int, path: str) -> list[Any]:
    def read() -> str:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())

    return [json.loads(line) for line in (await trio.to_thread.run_sync(read)).splitlines()]


async def test_fake_as_a_process() -> None:
    async with fake_process("--key", "other-key", "--script", "ok-3") as port:
        asked = OpenAI(OpenAISettings.model_validate({"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "k"}))
        assert (await read_answer(asked, prompt("some-model"))).texts == words(3)
        async with asked.open(prompt("openai/slow")) as answer:
            assert await answer.receive() == ["t0 "]
            assert await get(port, "/_open") == [{"open": 1}]
        while True:
            log = await get(port, "/_log")
            if log[1]["closed_at"]:
                break
        assert [(r["tokens_sent"], r["completed"], r["closed_by_client"]) for r in log] == [
            (3, True, False),
            (log[1]["tokens_sent"], False, True),
        ]
        assert 1 <= log[1]["tokens_sent"] < 5
        assert log[0]["body"]["model"] == "some-model"
        assert log[0]["authorization"] == "wrong"
        assert "authorization" not in log[0]["headers"]
        assert await get(port, "/_reset") == [{}]
        assert await get(port, "/_log") == []
        assert await get(port, "/_open") == [{"open": 0}]


@pytest.mark.parametrize("model", ["status-500-then-ok", "drop-then-ok"])
async def test_repeated_requests_are_counted_per_body(fake: FakeProvider, model: str) -> None:
    asked = OpenAI(OpenAISettings.model_validate({"base_url": fake.base_url, "retry": {"attempts": 1}}))
    for _ in range(2):
        for text in ("a", "b"):
            assert (await read_answer(asked, prompt(model, text))).error is not None
        for text in ("a", "b"):
            assert (await read_answer(asked, prompt(model, text))).texts == words(3)


async def test_token_rate(fake: FakeProvider, clock: MockClock) -> None:
    start = trio.current_time()
    assert (await read_answer(OpenAI(OpenAISettings(base_url=fake.base_url)), prompt("ok-20-10"))).texts == words(
        20
    )
    assert 1.9 < trio.current_time() - start < 2.1
