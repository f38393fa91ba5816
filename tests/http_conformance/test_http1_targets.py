"""What a request is for: targets in their four forms, Host, and HEAD on everything (RFC 9112 section 3.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.clients.api import Api
from tests.clients.http1 import Connection

from .http1_requests import JSON, Asker, asking
from .server_probe import Probe

PLACES = ("/healthz", "/v1/conversations")


@pytest.fixture
async def asker(probe: Probe) -> AsyncIterator[Asker]:
    """A connection of the test's own; behind it there is no traceback in the server's log."""
    before = len(probe.server.logged())
    async with asking(probe.port) as asker:
        yield asker
    logged = probe.server.logged()[before:]
    assert "Traceback" not in logged, logged[:4_000]


# Absolute-form (section 3.2.2)


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example", "localhost:1"])
@pytest.mark.parametrize("scheme", ["http", "HTTP"])
async def test_the_authority_of_a_target_takes_the_place_of_host(asker: Asker, host: str, scheme: str) -> None:
    """Also where the name is checked; whatever Host says is not looked at."""
    target = f"{scheme}://{asker.authority}/v1/conversations?limit=1"
    answer = await asker.ask("GET", target, {"Host": host})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"


async def test_a_foreign_authority_is_refused_whatever_host_says(asker: Asker) -> None:
    """A name that points here is refused in every form."""
    (await asker.ask("GET", "http://evil.example/v1/conversations")).problem(403, 421)
    (await asker.ask("POST", "http://evil.example/v1/conversations", JSON, b"{}")).problem(403, 421)


async def test_the_origin_is_compared_with_the_authority(asker: Asker) -> None:
    """The page of the server's own."""
    target = f"http://{asker.authority}/v1/conversations"
    own = {**JSON, "Origin": f"http://{asker.authority}", "Host": "localhost"}
    assert (await asker.ask("POST", target, own, b"{}")).status == 201
    foreign = {**JSON, "Origin": "http://evil.example", "Host": "evil.example"}
    (await asker.ask("POST", target, foreign, b"{}")).problem(403)


@pytest.mark.parametrize("rest", ["", "?x=1", "/?x=1"])
async def test_an_absolute_target_without_a_path(asker: Asker, rest: str) -> None:
    """It means `/`: the same answer."""
    plain = await asker.ask("GET", "/?x=1")
    answer = await asker.ask("GET", f"http://{asker.authority}{rest}")
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
async def test_a_target_that_is_none(asker: Asker, method: str, target: str) -> None:
    """400 in words, whoever asks; nothing raises."""
    answer = await asker.ask(method, target, JSON if method == "POST" else {}, b"{}" if method == "POST" else b"")
    answer.problem(400)


async def test_an_empty_target(asker: Asker) -> None:
    """The same."""
    await asker.send(b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n")
    (await asker.answer()).problem(400)


@pytest.mark.parametrize(
    "target", ["//evil.example/healthz", "/%zz", "/%", "/%00", "/..%2f", "/./healthz", "/;x", "/|"]
)
async def test_strange_paths_are_only_unknown(asker: Asker, target: str) -> None:
    """404, or 400 for what is no URL; never a redirect."""
    (await asker.ask("GET", target)).problem(400, 404)


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
async def test_options_of_the_server(asker: Asker, host: str) -> None:
    """`OPTIONS *` asks whether it is there (section 3.2.4)."""
    await asker.send(asker.request("OPTIONS", "*", {"Host": host}))
    answer = await asker.answer("OPTIONS")
    assert answer.status in (200, 204)
    assert answer.body == b""
    assert (await asker.ask("GET", "/healthz")).status == 200


# Host (section 3.2)


@pytest.mark.parametrize("target", PLACES)
async def test_no_host(asker: Asker, target: str) -> None:
    """400 (section 3.2), at every address."""
    (await asker.ask("GET", target, {"Host": ""})).problem(400)


@pytest.mark.parametrize("second", ["127.0.0.1", "evil.example"])
@pytest.mark.parametrize("target", PLACES)
async def test_two_hosts(asker: Asker, target: str, second: str) -> None:
    """400, also for one name twice."""
    (await asker.ask("GET", target, {"Host": "127.0.0.1", "host": second})).problem(400)


@pytest.mark.parametrize(
    "host",
    [
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
    ],
)
@pytest.mark.parametrize("target", PLACES)
async def test_a_host_that_is_none(asker: Asker, target: str, host: str) -> None:
    """400 (section 3.2: "a Host header field with an invalid field value"), at every address."""
    (await asker.ask("GET", target, {"Host": host})).problem(400)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "127.0.0.2:80", "x_y"])
async def test_a_host_that_is_another_ones(asker: Asker, host: str) -> None:
    """Refused as such, and the connection serves on."""
    (await asker.ask("GET", "/v1/conversations", {"Host": host})).problem(403, 421)
    assert (await asker.ask("GET", "/healthz")).status == 200


# HEAD (RFC 9110 section 9.3.2)


async def addresses(port: int) -> list[str]:
    """Every address that can be read, with ids of things that are there; the events in their three forms."""
    async with Api.open(port) as api:
        document = (await api.http.get("/openapi.json")).json()
        generation = await api.generate()
        await api.finished(generation)
        conversation = (await api.get(generation))["conversation"]
        found = []
        for path, operations in document["paths"].items():
            if "get" not in operations:
                continue
            kept = "/generations/" in path
            target = path
            for name in ("{id}", "{conversation}", "{generation}"):
                target = target.replace(name, generation.rpartition("/")[2] if kept else conversation)
            assert "{" not in target, target
            forms = ("json", "sse", "ndjson") if path.endswith("/events") else ("",)
            found += [f"{target}?format={form}" if form else target for form in forms]
        assert len(found) >= 10
        return [*found, f"{generation}/events?format=sse&after=1000000", "/nope", "/"]


CHANGES = {"date", "x-request-id", "transfer-encoding"}
ALWAYS = {"content-type", "cache-control", "etag", "vary", "location", "retry-after", "x-accel-buffering", "allow"}


async def test_head_is_get_without_a_body(asker: Asker, probe: Probe) -> None:
    """The same status and headers; no length where GET gives none; and the connection serves on."""
    for target in await addresses(probe.port):
        async with await Connection.open(probe.port) as connection:
            got = await connection.ask("GET", target)
        answer = await asker.ask("HEAD", target)
        assert answer.status == got.status, target
        for name, value in answer.headers.items():
            if name in CHANGES or (target == "/metrics" and name == "content-length"):
                continue
            assert got.headers.get(name) == value, (target, name, value, got)
        assert {name for name in got.headers if name in ALWAYS} <= set(answer.headers), (target, got, answer)
        assert answer.headers.get("content-length") != "0", target


async def test_nothing_follows_the_answer_to_head(probe: Probe) -> None:
    """Not a byte, in whatever form the body would have been."""
    for target in await addresses(probe.port):
        async with asking(probe.port) as asker:
            await asker.send(asker.request("HEAD", target, {"Connection": "close"}))
            received = b""
            with trio.fail_after(10):
                while more := await asker.connection.raw():
                    received += more
        head, end, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert (end, rest) == (b"\r\n\r\n", b""), target
