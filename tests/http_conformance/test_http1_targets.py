"""Request targets and Host in HTTP/1.1 (RFC 9112 section 3.2), and HEAD on every readable address.

A target may be a path, an absolute URL or `*`. Invalid ones get 400, foreign host names are refused in every form.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.clients.api import Api
from tests.clients.http1 import Connection

from .http1_requests import JSON, Http1Client, http1_client
from .server_probe import Probe

PLACES = ("/healthz", "/v1/conversations")


@pytest.fixture
async def client(probe: Probe) -> AsyncIterator[Http1Client]:
    """A client on its own connection. After the test the server's log must hold no traceback."""
    before = len(probe.server.logged())
    async with http1_client(probe.port) as client:
        yield client
    logged = probe.server.logged()[before:]
    assert "Traceback" not in logged, logged[:4_000]


# Absolute-form (section 3.2.2)


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example", "localhost:1"])
@pytest.mark.parametrize("scheme", ["http", "HTTP"])
async def test_authority_of_an_absolute_target_replaces_host(client: Http1Client, host: str, scheme: str) -> None:
    """The check of allowed hosts uses it too; the Host header is ignored."""
    target = f"{scheme}://{client.authority}/v1/conversations?limit=1"
    answer = await client.ask("GET", target, {"Host": host})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"


async def test_foreign_authority_is_refused_whatever_host_says(client: Http1Client) -> None:
    """A foreign name that resolves to this server (DNS rebinding) is refused in every form."""
    (await client.ask("GET", "http://evil.example/v1/conversations")).problem(403, 421)
    (await client.ask("POST", "http://evil.example/v1/conversations", JSON, b"{}")).problem(403, 421)


async def test_origin_is_compared_with_the_authority_of_the_target(client: Http1Client) -> None:
    """The server's own page is accepted although its Host header has another name."""
    target = f"http://{client.authority}/v1/conversations"
    own = {**JSON, "Origin": f"http://{client.authority}", "Host": "localhost"}
    assert (await client.ask("POST", target, own, b"{}")).status == 201
    foreign = {**JSON, "Origin": "http://evil.example", "Host": "evil.example"}
    (await client.ask("POST", target, foreign, b"{}")).problem(403)


@pytest.mark.parametrize("rest", ["", "?x=1", "/?x=1"])
async def test_absolute_target_without_a_path_means_root(client: Http1Client, rest: str) -> None:
    plain = await client.ask("GET", "/?x=1")
    answer = await client.ask("GET", f"http://{client.authority}{rest}")
    assert answer.status == plain.status
    assert answer.headers["content-type"] == plain.headers["content-type"]


@pytest.mark.parametrize(
    "target",
    [
        "http://[::1",
        "http://[::1]evil.example/healthz",
        "http://",
        "http:///healthz",
        "http:/healthz",
        "http://user@127.0.0.1/healthz",
        "http://user:word@127.0.0.1/healthz",
        "http://127.0.0.1:port/healthz",
        "http://127.0.0.1:99999999/healthz",
        "http://a b/healthz",
        "ftp://127.0.0.1/healthz",
        "file:///healthz",
        "127.0.0.1/healthz",
        "healthz",
        "?x",
        "#x",
        "*",
        "/healthz#x",
        "/health\x7fz",
        "/health\xe9z",
        "\\healthz",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_invalid_target_gets_400(client: Http1Client, method: str, target: str) -> None:
    """With a problem document, and without an exception in the server."""
    answer = await client.ask(method, target, JSON if method == "POST" else {}, b"{}" if method == "POST" else b"")
    answer.problem(400)


async def test_empty_target_gets_400(client: Http1Client) -> None:
    await client.send(b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n")
    (await client.answer()).problem(400)


@pytest.mark.parametrize(
    "target", ["//evil.example/healthz", "/%zz", "/%", "/%00", "/..%2f", "/./healthz", "/;x", "/|"]
)
async def test_unusual_paths_get_404_or_400_and_never_a_redirect(client: Http1Client, target: str) -> None:
    (await client.ask("GET", target)).problem(400, 404)


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
async def test_options_asterisk_is_answered_without_a_body(client: Http1Client, host: str) -> None:
    """RFC 9112 section 3.2.4."""
    await client.send(client.request("OPTIONS", "*", {"Host": host}))
    answer = await client.answer("OPTIONS")
    assert answer.status in (200, 204)
    assert answer.body == b""
    assert (await client.ask("GET", "/healthz")).status == 200


# Host (section 3.2)


INVALID_HOSTS: dict[str, dict[str, str]] = {
    "none": {"Host": ""},
    "two of one value": {"Host": "127.0.0.1", "host": "127.0.0.1"},
    "two of two values": {"Host": "127.0.0.1", "host": "evil.example"},
    **{
        host: {"Host": host}
        for host in (
            "127.0.0.1 evil.example",
            "127.0.0.1, evil.example",
            "[::1",
            "::1]",
            "[::1]evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1/evil.example",
            "127.0.0.1?x",
            "127.0.0.1#x",
            "127.0.0.1:port",
            "127.0.0.1:80:80",
            "http://127.0.0.1",
            "127.0.0.1\\x",
            "a\tb",
        )
    },
}
"""Host is missing, is there twice, or is no host name."""


@pytest.mark.parametrize("headers", INVALID_HOSTS.values(), ids=INVALID_HOSTS)
@pytest.mark.parametrize("target", PLACES)
async def test_missing_repeated_or_invalid_host_gets_400(
    client: Http1Client, target: str, headers: dict[str, str]
) -> None:
    """RFC 9112 section 3.2 demands 400 for all three."""
    (await client.ask("GET", target, headers)).problem(400)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "127.0.0.2:80", "x_y"])
async def test_foreign_host_is_refused_and_the_connection_goes_on(client: Http1Client, host: str) -> None:
    (await client.ask("GET", "/v1/conversations", {"Host": host})).problem(403, 421)
    assert (await client.ask("GET", "/healthz")).status == 200


# HEAD (RFC 9110 section 9.3.2)


async def readable_addresses(port: int) -> list[str]:
    """Every address in `/openapi.json` that has a GET, with existing ids; event logs in their three forms."""
    async with Api.open(port) as api:
        document = (await api.http.get("/openapi.json")).json()
        generation = await api.generate()
        await api.finished(generation)
        conversation = (await api.get(generation))["conversation"]
        kept_file = (await api.http.post("/v1/files", content=b"a text")).json()["digest"]
        found = []
        for path, operations in document["paths"].items():
            if "get" not in operations:
                continue
            kept = "/generations/" in path
            target = path.replace("{digest}", kept_file)
            for name in ("{id}", "{conversation}", "{generation}"):
                target = target.replace(name, generation.rpartition("/")[2] if kept else conversation)
            assert "{" not in target, target
            forms = ("json", "sse", "ndjson") if path.endswith("/events") else ("",)
            found += [f"{target}?format={form}" if form else target for form in forms]
        assert len(found) >= 10
        return [*found, f"{generation}/events?format=sse&after=1000000", "/nope", "/"]


CHANGES = {"date", "x-request-id", "transfer-encoding"}
ALWAYS = {"content-type", "cache-control", "etag", "vary", "location", "retry-after", "x-accel-buffering", "allow"}


async def test_head_has_status_and_headers_of_get(client: Http1Client, probe: Probe) -> None:
    """HEAD has no Content-Length where GET has none, and the connection can be used again."""
    for target in await readable_addresses(probe.port):
        async with await Connection.open(probe.port) as connection:
            got = await connection.ask("GET", target)
        answer = await client.ask("HEAD", target)
        assert answer.status == got.status, target
        for name, value in answer.headers.items():
            if name in CHANGES or (target == "/metrics" and name == "content-length"):
                continue
            assert got.headers.get(name) == value, (target, name, value, got)
        assert {name for name in got.headers if name in ALWAYS} <= set(answer.headers), (target, got, answer)
        assert answer.headers.get("content-length") != "0", target


async def test_response_to_head_ends_after_its_headers(probe: Probe) -> None:
    """Not one byte of a body may follow, in any form."""
    for target in await readable_addresses(probe.port):
        async with http1_client(probe.port) as client:
            await client.send(client.request("HEAD", target, {"Connection": "close"}))
            received = b""
            with trio.fail_after(10):
                while more := await client.connection.raw():
                    received += more
        head, end, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert (end, rest) == (b"\r\n\r\n", b""), target
