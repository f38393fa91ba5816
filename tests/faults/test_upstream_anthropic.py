"""The second upstream, end to end: Anthropic's wire into the log, its failures as codes, proxies, connections.

The fake provider runs in the test, the server is a process of its own.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.faults.readers import ask, assert_whole, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running
from tests.providers.connect_proxy import ConnectProxy
from tests.providers.fake_provider import FakeProvider

KEY = "test-key"
FAILURES = [
    ("status-401", "upstream_unauthorized", False, 0),
    ("status-529", "upstream_unavailable", True, 0),
    ("error-object", "upstream_error", True, 3),
    ("cut-after-3", "upstream_cut", True, 3),
    ("stall-after-3", "upstream_stalled", True, 3),
    ("malformed-after-3", "upstream_malformed", False, 3),
]


@pytest.fixture
async def fake(nursery: trio.Nursery) -> FakeProvider:
    fake = await FakeProvider.listen(key=KEY)
    nursery.start_soon(fake.serve)
    return fake


@asynccontextmanager
async def serving(database: TestDatabase, fake: FakeProvider, **more: str) -> AsyncIterator[Server]:
    """A server that has this provider."""
    env = {"ANTHROPIC_BASE_URL": fake.root_url, "ANTHROPIC_API_KEY": KEY, "TOKENTAPE_UPSTREAM_STALL": "1"}
    async with running(database.app_url, env | more) as server:
        yield server


async def answer(server: Server, model: str) -> list[dict[str, Any]]:
    """One run's log, whole."""
    run = await ask(server.url, {"model": f"anthropic/{model}", "input": "hello"})
    log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events", 60)
    assert_whole(log)
    return log


def texts(log: list[dict[str, Any]]) -> list[str]:
    """The tokens of a log."""
    return [event["delta"] for event in log if event["type"] == "token"]


async def test_an_answer_its_usage_and_the_key_that_is_nowhere(database: TestDatabase, fake: FakeProvider) -> None:
    async with serving(database, fake) as server:
        log = await answer(server, "ok-200")
        assert texts(log) == [f"t{n} " for n in range(200)]
        end = log[-1]
        assert (end["type"], end["finish_reason"]) == ("generation.completed", "stop")
        assert end["usage"] == {"input_tokens": 7, "output_tokens": 200}
        assert isinstance(end["ttft_ms"], int)
        (asked,) = fake.log
        assert (asked.path, asked.authorization, asked.body["model"]) == ("/v1/messages", "right", "ok-200")
        assert asked.body["messages"] == [{"role": "user", "content": "hello"}]
        assert KEY not in server.logged() + str(log)


async def test_reasoning_is_no_text(database: TestDatabase, fake: FakeProvider) -> None:
    """What the model thinks is not what it says: no token of it is in the log."""
    async with serving(database, fake) as server:
        log = await answer(server, "reasoning")
        assert fake.log[0].completed
        assert log[-1]["type"] == "generation.completed"
        assert texts(log)
        assert all(text.startswith("t") for text in texts(log)), texts(log)


async def test_tool_calls_are_not_shown_as_text(database: TestDatabase, fake: FakeProvider) -> None:
    async with serving(database, fake) as server:
        log = await answer(server, "tools")
        assert (log[-1]["type"], log[-1]["finish_reason"]) == ("generation.completed", "tool_calls")
        assert texts(log) == ["t0 "]


async def test_every_failure_ends_in_a_code(database: TestDatabase, fake: FakeProvider) -> None:
    """The code says whether a repetition can help; the text before it is kept."""
    async with serving(database, fake) as server:
        for model, code, retryable, tokens in FAILURES:
            log = await answer(server, model)
            assert log[-1]["type"] == "generation.failed"
            assert (log[-1]["error"]["code"], log[-1]["retryable"]) == (code, retryable), model
            assert len(texts(log)) == tokens, model
        assert "Traceback" not in server.logged()


async def test_api_key_quoted_by_the_provider_is_redacted(database: TestDatabase, fake: FakeProvider) -> None:
    async with serving(database, fake) as server:
        log = await answer(server, "leak-key")
        assert log[-1]["error"]["code"] == "upstream_unauthorized"
        assert KEY not in server.logged() + str(log)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_second_answer_reuses_the_connection(
    database: TestDatabase, fake: FakeProvider, provider: str
) -> None:
    """This saves the handshakes: a tenth of a second and more with TLS across a continent."""
    async with serving(database, fake, OPENAI_BASE_URL=fake.base_url) as server:
        for count in (3, 4):
            run = await ask(server.url, {"model": f"{provider}/ok-{count}", "input": "hello"})
            log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            assert len(texts(log)) == count
        assert (len(fake.log), fake.accepted) == (2, 1)
        assert await server.stop() == 0
    with trio.fail_after(5):
        await fake.until(lambda: fake.open == 0)


async def test_model_without_api_key_gets_422_naming_the_setting(database: TestDatabase) -> None:
    async with running(database.app_url) as server, http_client(server.url) as client:
        got = await client.post("/v1/generations", json={"model": "anthropic/x", "input": "hello"})
        assert (got.status_code, got.json()["code"]) == (422, "unknown_model")
        assert "ANTHROPIC_API_KEY" in got.json()["detail"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_https_uses_the_proxy_of_the_environment(
    database: TestDatabase, nursery: trio.Nursery, tmp_path: Path, provider: str
) -> None:
    """By a tunnel with TLS to the provider inside: only the provider sees the API key, and only the proxy its
    own password.
    """
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("provider.example").configure_cert(context)
    fake = await FakeProvider.listen(
        key=KEY, wrap=lambda stream: trio.SSLStream(stream, context, server_side=True)
    )
    nursery.start_soon(fake.serve)
    tunnel = ConnectProxy(fake)
    env = {
        "HTTPS_PROXY": await tunnel.listen(nursery),
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        f"{provider.upper()}_BASE_URL": "https://provider.example",
        f"{provider.upper()}_API_KEY": KEY,
    }
    async with running(database.app_url, env) as server:
        for _ in range(2):
            run = await ask(server.url, {"model": f"{provider}/ok-3", "input": "hello"})
            log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            assert texts(log) == ["t0 ", "t1 ", "t2 "], log[-1]
        assert len(tunnel.requests) == 1, "the tunnel is used again"
        assert tunnel.requests[0].startswith("CONNECT provider.example:443 HTTP/1.1\r\n")
        assert KEY not in tunnel.requests[0]
        assert all("proxy-authorization" not in record.headers for record in fake.log)
        (line,) = [line for line in server.log_lines() if line["event"] == "provider set up"]
        assert (line["provider"], line["through_proxy"], line["because"]) == (provider, True, "HTTPS_PROXY")
        assert "hunter2" not in server.logged()
