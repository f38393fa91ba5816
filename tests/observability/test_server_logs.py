"""Log lines of a real server: ids on every response and line, figures of runs, no secret and no content."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
import trio

from tests.clients.api import Api, demo
from tests.clients.http1 import Connection
from tests.clients.websocket import talk
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running
from tests.providers.fake_provider import FakeProvider

JSON = {"Content-Type": "application/json"}


async def wait_for_lines(server: Server, event: str, count: int = 1) -> list[dict[str, Any]]:
    """Waits for this number of lines of a kind."""
    with trio.fail_after(20):
        while len(found := [line for line in server.log_lines() if line["event"] == event]) < count:
            await trio.sleep(0.02)
    return found


async def test_every_response_has_a_request_id(database: TestDatabase) -> None:
    """Successful or not, with or without a body, also where the framework itself refuses."""
    async with (
        running(database.app_url) as server,
        Api.open(server.port) as api,
        http_client(server.url) as client,
    ):
        log = await api.conversation()
        snapshot = await client.get(log)
        asked: list[tuple[str, str, dict[str, str], bytes | None, int]] = [
            ("GET", "/healthz", {}, None, 200),
            ("GET", "/metrics", {}, None, 200),
            ("HEAD", "/healthz", {}, None, 200),
            ("GET", log, {"If-None-Match": snapshot.headers["ETag"]}, None, 304),
            ("GET", "/nowhere", {}, None, 404),
            ("DELETE", "/healthz", {}, None, 405),
            ("GET", f"{log}/events?after=x", {}, None, 400),
            ("GET", f"{log}/events?after=99", {"Accept": "text/event-stream"}, None, 400),
            ("POST", "/v1/conversations", JSON, b"{", 400),
            ("POST", "/v1/conversations", JSON, b'{"x": 1}', 422),
            ("POST", "/v1/conversations", {"Content-Type": "text/plain"}, b"x", 415),
            ("POST", "/v1/conversations", JSON, b" " * 1_100_000, 413),
            ("POST", "/v1/conversations", {**JSON, "Origin": "https://evil.example"}, b"{}", 403),
            ("GET", log, {"Host": "evil.example"}, None, 421),
        ]
        for method, path, headers, body, status in asked:
            name = secrets.token_hex(8)
            got = await client.request(method, path, headers={**headers, "X-Request-ID": name}, content=body)
            assert (got.status_code, got.headers.get_list("X-Request-ID")) == (status, [name]), (method, path)
            got = await client.request(method, path, headers=headers, content=body)
            assert got.headers["X-Request-ID"].startswith("req_"), (method, path)
        async with await Connection.open(server.port) as connection:
            head = await connection.ask(
                "GET", f"{log}/events", {"Accept": "text/event-stream", "X-Request-ID": "s"}
            )
            assert head.headers["x-request-id"] == "s"
        async with talk(server.port, log, headers=[(b"X-Request-ID", b"socket-1")]) as connection:
            answered = dict(connection.connection.handshake_headers)
            assert answered[b"x-request-id"] == b"socket-1"


async def test_run_lines_carry_the_request_id(database: TestDatabase) -> None:
    """The run outlives its request; connections kept alive mix no ids."""
    async with running(database.app_url) as server, http_client(server.url) as client:
        begun: dict[str, str] = {}

        async def begin(n: int) -> None:
            name = f"asker-{n}"
            body = demo(tokens=5, rate=50, seed=n)
            got = await client.post("/v1/generations", json=body, headers={"X-Request-ID": name})
            assert got.status_code == 202, got.text
            begun[got.json()["id"]] = name

        await begin(0)
        await client.get("/healthz", headers={"X-Request-ID": "somebody-else"})
        async with trio.open_nursery() as nursery:
            for n in range(1, 12):
                nursery.start_soon(begin, n)
        over = await wait_for_lines(server, "run finished", 12)
        assert {line["generation"]: line["request"] for line in over} == begun
        for line in over:
            assert (line["model"], line["outcome"], line["tokens"]) == ("demo", "completed", 5)
            assert line["conversation"].startswith("conv_")
            assert {"ttft_ms", "duration_ms", "tokens_per_second", "longest_gap_ms"} <= line.keys()


async def test_websocket_commands_carry_the_request_id(database: TestDatabase) -> None:
    async with running(database.app_url) as server, Api.open(server.port) as api:
        log = await api.conversation()
        async with talk(server.port, log, headers=[(b"X-Request-ID", b"socket-1")]) as connection:
            await connection.command("generate", **demo(tokens=2))
            await connection.until_event("generation.completed")
        (over,) = await wait_for_lines(server, "run finished")
        assert over["request"] == "socket-1"
        assert log.endswith(over["conversation"])


async def test_stopping_server_logs_the_request_ids_of_its_runs(database: TestDatabase) -> None:
    env = {"TOKENTAPE_STOP_TIMEOUT": "2"}
    async with running(database.app_url, env) as server, http_client(server.url) as client:
        got = await client.post(
            "/v1/generations", json=demo(tokens=1000, rate=1), headers={"X-Request-ID": "asker"}
        )
        assert await server.stop() == 0
        (over,) = await wait_for_lines(server, "run finished")
        assert (over["request"], over["generation"]) == ("asker", got.json()["id"])
        assert (over["outcome"], over["failure"], over["level"]) == ("failed", "server_stopped", "warning")


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_line_holds_secrets_or_content(database: TestDatabase, nursery: trio.Nursery, form: str) -> None:
    """Keys of the environment, headers, messages and answers, in success and failure."""
    fake = await FakeProvider.listen(key="sk-secret-1")
    nursery.start_soon(fake.serve)
    env = {
        "OPENAI_BASE_URL": fake.base_url,
        "OPENAI_API_KEY": "sk-secret-1",
        "ANTHROPIC_BASE_URL": fake.root_url,
        "ANTHROPIC_API_KEY": "sk-secret-2",
        "HTTPS_PROXY": "http://me:hunter2@127.0.0.1:1",
        "TOKENTAPE_LOG_FORMAT": form,
    }
    headers = {"Authorization": "Bearer hunter3", "Cookie": "session=hunter4", "Idempotency-Key": "hunter5"}
    async with running(database.app_url, env) as server, Api.open(server.port) as api:
        log = await api.conversation(title="confidential-title", metadata={"a": "confidential-metadata"})
        said = {"role": "user", "content": "confidential-message", "author": "confidential-author"}
        await api.post(f"{log}/messages", said, **headers)
        for provider in ("openai", "anthropic"):
            for model in ("echo", "leak-key", "error-object", "status-401", "cut-after-3"):
                body = {"model": f"{provider}/{model}", "input": "confidential-input"}
                got = await api.post(f"{log}/generations", body, authorization="Bearer hunter3")
                assert got.status_code == 202, got.text
                await api.finished(got.headers["Location"])
        await api.post(f"{log}/messages", {"role": "user", "content": "confidential\x00"}, **headers)
        await api.http.get(f"{log}/events?after=confidential-cursor", headers=headers)
        await api.http.get(f"{log}/events?api_key=confidential-query&format=sse&after=1000", headers=headers)
        with trio.fail_after(20):
            while server.logged().count("run finished") < 10:
                await trio.sleep(0.02)
        assert await server.stop() == 0
        logged = server.logged()
    for secret in ("secret-1", "secret-2", "hunter", "confidential", database.app_url, "Traceback"):
        assert secret not in logged, secret
    assert "\x1b[" not in logged, "colours are for terminals"
