"""What HTTP clients and integration tools commonly do: extra slashes, charsets, byte order marks, OPTIONS, HEAD.

Harmless variants are accepted; mistakes get a problem document in every form.
"""

from __future__ import annotations

import gzip
import json

import pytest

from tests.clients.api import Api, demo, new_key
from tests.clients.http1 import Connection

from .problem_checks import check_problem

JSON_TYPE = {"Content-Type": "application/json"}


async def test_trailing_slash_is_the_same_path(api: Api) -> None:
    """Idempotency keys count for both."""
    key = new_key()
    first = await api.post("/v1/conversations/", {}, idempotency_key=key)
    again = await api.post("/v1/conversations", {}, idempotency_key=key)
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]
    path = first.headers["Location"]
    assert (await api.get(f"{path}/")) == (await api.get(path))
    assert (await api.get(f"{path}/events/")) == (await api.get(f"{path}/events"))
    for other in ("/v1/", "/nope/"):
        assert (await api.http.get(other)).status_code == 404


async def post_raw(port: int, path: str, **headers: str) -> int:
    """Sends a POST to exactly that path, which HTTP clients would normalize. Returns the status."""
    async with await Connection.open(port) as connection:
        head = await connection.ask("POST", path, {**JSON_TYPE, **headers}, b"{}")
        await connection.body()
    return head.status


async def test_extra_leading_slashes_are_the_same_path(api: Api) -> None:
    """A base URL that ends in a slash makes them. The checks of Host and Origin still apply."""
    before = (await api.get("/v1/conversations", limit=1))["conversations"][:1]
    for path in ("//v1/conversations", "///v1/conversations/"):
        assert await post_raw(api.port, path, Origin="http://evil.example") == 403
        assert await post_raw(api.port, path, Host="evil.example") == 421
    assert (await api.get("/v1/conversations", limit=1))["conversations"] == before
    assert await post_raw(api.port, "//v1/conversations") == 201
    assert await post_raw(api.port, "/v1//conversations") == 404


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "Application/JSON",
        "application/json; charset=iso-8859-1",
        "application/json;",
    ],
)
async def test_spellings_of_the_json_content_type(api: Api, kind: str) -> None:
    """JSON is UTF-8, whatever charset is given (RFC 8259)."""
    body = '{"title": "für"}'.encode()
    answer = await api.http.post("/v1/conversations", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["title"]) == (201, "für")


async def test_byte_order_mark_is_ignored(api: Api) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"title": "x"}).encode()
    answer = await api.http.post("/v1/conversations", content=body, headers=JSON_TYPE)
    assert (answer.status_code, answer.json()["title"]) == (201, "x")


async def test_compressed_body_gets_415_naming_the_coding(api: Api) -> None:
    """Not an error about bad JSON."""
    body = gzip.compress(b'{"title": "x"}')
    for coding in ("gzip", "br", "GZIP"):
        answer = await api.http.post(
            "/v1/conversations", content=body, headers={**JSON_TYPE, "Content-Encoding": coding}
        )
        problem = check_problem(415, answer.headers, answer.content, "unsupported_media_type")
        assert coding.lower() in problem["detail"]
    plain = {**JSON_TYPE, "Content-Encoding": "identity"}
    assert (await api.http.post("/v1/conversations", content=b"{}", headers=plain)).status_code == 201


async def test_responses_are_never_compressed(api: Api) -> None:
    """Compression would hold back a stream."""
    generation = await api.generate()
    await api.finished(generation)
    for path in (generation, f"{generation}/events", f"{generation}/events?format=sse", "/docs"):
        answer = await api.http.get(path, headers={"Accept-Encoding": "gzip, deflate, br"})
        assert (answer.status_code, answer.headers.get("Content-Encoding")) == (200, None)


@pytest.mark.parametrize("body", [b"", b"{}", b" {} ", b"{\n}"])
async def test_empty_body_is_accepted_where_no_field_is_required(api: Api, body: bytes) -> None:
    """With or without a content type, as `curl -X POST` sends it."""
    generation = await api.generate(tokens=1000, rate=1)
    kinds: list[dict[str, str]] = [JSON_TYPE] if body else [{}, JSON_TYPE]
    for headers in kinds:
        answer = await api.http.post(f"{generation}/cancel", content=body, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


@pytest.mark.parametrize("form", ["json", "sse", "ndjson"])
async def test_invalid_parameter_gets_400_in_every_form(api: Api, form: str) -> None:
    """Even if the form would not use the parameter."""
    conversation = await api.conversation()
    for query in ("pad=0", "pad=65537", "named=yes", "limit=0", "wait=soon", "wait=1_0", "after=x"):
        answer = await api.http.get(f"{conversation}/events?format={form}&{query}")
        check_problem(400, answer.headers, answer.content, f"invalid_{query.partition('=')[0]}", "invalid_cursor")
    for path in (conversation, await api.generate()):
        answer = await api.http.get(f"{path}?wait=soon")
        check_problem(400, answer.headers, answer.content, "invalid_wait")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_invalid_query_of_a_post_starts_no_run(api: Api, accept: str) -> None:
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/generations?pad=0", demo(), accept=accept)
    check_problem(400, answer.headers, answer.content, "invalid_pad")
    assert len(await api.log(conversation)) == 1


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/conversations", "GET, HEAD, OPTIONS, POST"),
        ("/v1/generations", "OPTIONS, POST"),
        ("{conversation}/events", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_lists_methods_without_cors_headers(api: Api, path: str, methods: str) -> None:
    """Foreign origins learn nothing about CORS."""
    target = path.format(conversation=await api.conversation())
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for headers in ({}, asked):
        answer = await api.http.options(target, headers=headers)
        assert (answer.status_code, answer.headers["Allow"], answer.content) == (204, methods, b"")
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    wrong = await api.http.delete(target)
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, methods)
    assert (await api.http.options("/nope")).status_code == 404


async def test_head_has_status_and_headers_of_get(api: Api) -> None:
    """HEAD of a stream sends no events."""
    generation = await api.generate()
    await api.finished(generation)
    conversation = (await api.get(generation))["conversation"]
    paths = [
        generation,
        f"/v1/conversations/{conversation}",
        "/healthz",
        "/openapi.json",
        "/docs",
        "/v1/conversations",
    ]
    paths += [f"{generation}/events", f"{generation}/events?format=sse&after=now", f"{generation}/events?after=x"]
    for path in paths:
        got, head = await api.http.get(path), await api.http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        volatile = ("date", "x-request-id")
        assert {name: value for name, value in head.headers.items() if name not in volatile} == {
            name: value for name, value in got.headers.items() if name not in volatile
        }, path


async def test_websocket_path_without_upgrade_gets_426(api: Api) -> None:
    answer = await api.http.get(f"{await api.conversation()}/ws")
    check_problem(426, answer.headers, answer.content, "upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"
