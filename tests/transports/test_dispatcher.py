"""GET and HEAD requests that the dispatcher answers itself, compared with the framework's responses.

Both must have the same status, headers and bytes. An escaped path makes the dispatcher pass a request on.
"""

from __future__ import annotations

import httpx2 as httpx
import pytest

from tests.clients.api import Api
from tests.clients.readers import escaped
from tests.harness.http import http_client
from tests.harness.servers import Server

OWN = {"date", "x-request-id"}
"""Headers that differ between any two responses."""

QUERIES = [
    "",
    "/events",
    "/events?after=3&limit=4",
    "/events?after=3&types=token",
    "/events?after=3&types=-token&limit=2",
    "/events?format=ndjson",
    "/events?format=sse",
    "/events?format=sse&named=1&pad=100&heartbeat=event,5",
    "/events?format=sse&types=token",
    "/events?lastEventId=5&after=1",
    "?at=4",
    "?at=now",
    "?pending=202",
    # Mistakes.
    "/events?after=x",
    "/events?after=99999",
    "/events?limit=0",
    "/events?types=tokens",
    "/events?types=token,-result",
    "/events?heartbeat=4",
    "/events?heartbeat=61",
    "/events?format=xml",
    "/events?wait=soon",
    "/events?pad=-1",
    "/events?named=2",
    "?at=99999",
    "?at=x",
    "?pending=200",
    "?wait=x",
]
HEADERS = [
    {},
    {"Accept": "text/event-stream"},
    {"Accept": "text/event-stream", "Last-Event-ID": "7"},
    {"Accept": "application/x-ndjson", "Last-Event-ID": "now"},
    {"If-None-Match": "*"},
    {"If-None-Match": 'W/"1", "2"', "Prefer": "wait=0"},
    {"Origin": "https://elsewhere.example"},
    {"Host": "elsewhere.example"},
]


@pytest.fixture
async def paths(api: Api) -> list[str]:
    """Paths of a finished generation, its conversation, and ids that do not exist."""
    conversation = await api.conversation(title="Two ways", metadata={"a": "é\u2028"})
    await api.message(conversation, "one\u2028two")
    generation = await api.generate(conversation, tokens=12, rate=0)
    await api.finished(generation)
    return [generation, conversation, f"/v1/generations/gen_{'0' * 26}", f"/v1/conversations/conv_{'0' * 26}"]


@pytest.mark.parametrize("query", QUERIES)
async def test_dispatcher_and_framework_give_the_same_response(
    server: Server, paths: list[str], query: str
) -> None:
    async with http_client(server.url) as client:
        for path in paths:
            endless = path == paths[1] and "/events" in query
            for headers in HEADERS:
                for method in ("GET", "HEAD"):
                    if endless and method == "GET" and _is_stream(query, headers):
                        continue
                    direct = await client.request(method, path + query, headers=headers)
                    other = await client.request(method, escaped(path) + query, headers=headers)
                    assert _comparable(direct) == _comparable(other), (method, path, query, headers)


def _is_stream(query: str, headers: dict[str, str]) -> bool:
    return "format=sse" in query or "format=ndjson" in query or "Accept" in headers


def _comparable(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    lines = sorted((name, value) for name, value in answer.headers.multi_items() if name not in OWN)
    return answer.status_code, lines, answer.content
