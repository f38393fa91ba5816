"""Answers of an OpenAI-compatible provider, from the provider's bytes to the client.

Every failure must end in a code that a client can act on, and keep the text that came before it.
"""

import pytest

from tests.faults.readers import ask, assert_whole, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.fake_upstream import fake_upstream
from tests.harness.http import http_client
from tests.harness.servers import running

FAILURES = [
    ("status-401", "upstream_unauthorized", False),
    ("status-500", "upstream_unavailable", True),
    ("cut-after-3", "upstream_cut", True),
    ("malformed-after-3", "upstream_malformed", False),
    ("stall-after-3", "upstream_stalled", True),
    ("error-object", "upstream_error", True),
]


async def test_complete_answer_and_every_failure(database: TestDatabase) -> None:
    """A failure has a code that a client can act on, and keeps the text before it."""
    env = {"TOKENTAPE_UPSTREAM_STALL": "1"}
    async with fake_upstream() as fake:
        env["OPENAI_BASE_URL"] = fake.base_url
        async with running(database.app_url, env) as server:
            run = await ask(server.url, {"model": "openai/ok-200", "input": "hello"})
            log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            assert_whole(log)
            text = [event["delta"] for event in log if event["type"] == "token"]
            assert text == [f"t{n} " for n in range(200)]
            assert log[-1]["usage"]["output_tokens"] > 0
            assert isinstance(log[-1]["ttft_ms"], int)
            for model, code, retryable in FAILURES:
                run = await ask(server.url, {"model": f"openai/{model}", "input": "hello"})
                log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events", 60)
                assert_whole(log)
                assert log[-1]["error"]["code"] == code, model
                assert log[-1]["retryable"] is retryable, model
                if "after" in model:
                    assert [event["type"] for event in log].count("token") == 3
            assert "Traceback" not in server.logged()


async def test_readers_get_heartbeats_while_the_provider_is_silent(database: TestDatabase) -> None:
    """Not even response headers have come from the provider."""
    async with fake_upstream() as fake:
        env = {"OPENAI_BASE_URL": fake.base_url, "TOKENTAPE_HEARTBEAT": "0.2"}
        async with running(database.app_url, env) as server, http_client(server.url) as client:
            run = await ask(server.url, {"model": "openai/head-after-3", "input": "hello"})
            url, headers = f"/v1/generations/{run['id']}/events", {"Accept": "text/event-stream"}
            async with client.stream("GET", url, headers=headers) as got:
                lines = [line async for line in got.aiter_lines()]
            first = next(number for number, line in enumerate(lines) if '"token"' in line)
            quiet = sum(line.startswith(":") for line in lines[:first])
            assert quiet >= 3
            assert (await wait_closed(f"{server.url}{url}"))[-1]["type"] == "generation.completed"
            assert len(await fake.log()) == 1


async def test_the_history_is_the_prompt(database: TestDatabase) -> None:
    """Messages and earlier answers, in their order, then the input."""
    async with fake_upstream() as fake:
        async with running(database.app_url, {"OPENAI_BASE_URL": fake.base_url}) as server:
            async with http_client(server.url) as client:
                name = (await client.post("/v1/conversations", json={})).json()["id"]
                for role, content in (("system", "be brief"), ("user", "one two")):
                    await client.post(
                        f"/v1/conversations/{name}/messages", json={"role": role, "content": content}
                    )
                for body in ({"model": "openai/echo"}, {"model": "openai/echo", "input": "three"}):
                    run = await ask(server.url, body, name)
                    await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            sent = (await fake.log())[-1]["body"]["messages"]
            assert [(message["role"], message["content"].strip()) for message in sent] == [
                ("system", "be brief"),
                ("user", "one two"),
                ("assistant", "one two"),
                ("user", "three"),
            ]


@pytest.mark.parametrize(
    "body", [{"model": "openai/ok-5"}, {"model": "openai/x", "parameters": {"stream": False}}]
)
async def test_what_the_provider_would_refuse_is_refused_before(
    database: TestDatabase, body: dict[str, object]
) -> None:
    """422, and nothing is appended: no empty prompt, no parameter that breaks the stream."""
    async with running(database.app_url, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}) as server:
        async with http_client(server.url) as client:
            got = await client.post("/v1/generations", json=body)
            assert got.status_code == 422
            assert got.json()["code"] == "invalid_parameters"
            assert (await client.get("/v1/conversations")).json()["conversations"] == []


async def test_the_key_never_reaches_a_log_or_a_client(database: TestDatabase) -> None:
    """Not in the server's log, not in the event, though the provider quotes it."""
    async with fake_upstream() as fake:
        env = {"OPENAI_BASE_URL": fake.base_url, "OPENAI_API_KEY": "test-key"}
        async with running(database.app_url, env) as server:
            run = await ask(server.url, {"model": "openai/leak-key", "input": "hello"})
            log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            assert log[-1]["type"] == "generation.failed"
            assert "test-key" not in str(log) + server.logged()
