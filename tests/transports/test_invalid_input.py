"""Invalid bodies, cursors, positions and query numbers.

Each must get a problem document, append nothing, and leave the server working.
"""

from __future__ import annotations

import pytest
import trio

from tests.clients.api import Api, demo
from tests.clients.http1 import Connection

from .problem_checks import check_problem

CURSORS = [
    *(
        "-1",
        "abc",
        "1.5",
        "1e3",
        "0x1",
        "１２",
        "٣",
        "+1",
        "1 ",
        " 1",
        "1_0",
        "0,1",
        "NaN",
        "None",
        "true",
        "--",
        "\0",
    ),
    *("9" * 30, "18446744073709551616", "9" * 5000, "Now", "now1", "%ff", "1%00", "\u2028"),
]
JSON_TYPE = {"Content-Type": "application/json"}
DEEP = b'{"title": "x", "metadata": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001
BODIES: dict[str, tuple[bytes, set[int]]] = {
    "not JSON": (b"{", {400}),
    "two values": (b"{} {}", {400}),
    "single quotes": (b"{'title': 'x'}", {400}),
    "a trailing comma": (b'{"title": "x",}', {400}),
    "NaN": (b'{"metadata": {"a": NaN}}', {400, 422}),
    "Infinity": (b'{"metadata": {"a": -Infinity}}', {400, 422}),
    "not UTF-8": (b'{"title": "\xff\xfe"}', {400}),
    "UTF-16": ('{"title": "x"}'.encode("utf-16"), {400}),
    "a surrogate as UTF-8": (b'{"title": "\xed\xa0\x80"}', {400, 422}),
    "a control character": (b'{"title": "a\x01b"}', {400}),
    "a list": (b"[]", {400, 422}),
    "a string": (b'"x"', {400, 422}),
    "null": (b"null", {400, 422}),
    "a wrong type": (b'{"title": 5}', {422}),
    "an unknown field": (b'{"titel": "x"}', {422}),
    "a NUL": (b'{"title": "a\\u0000b"}', {422}),
    "a lone surrogate": (b'{"title": "a\\ud800b"}', {422}),
    "a low surrogate": (b'{"title": "\\udc00\\ud800"}', {422}),
    "a NUL in a name": (b'{"metadata": {"a\\u0000": 1}}', {422}),
    "a surrogate deep inside": (b'{"metadata": {"a": [[{"b": "\\udfff"}]]}}', {422}),
    "a number beyond floats": (b'{"metadata": {"a": 1e400}}', {400, 422}),
    "a very long number": (b'{"metadata": {"a": ' + b"1" * 10_000 + b"}}", {400, 422}),
    "deep objects": (DEEP, {400, 422}),
    "deep lists": (b"[" * 100_000, {400, 422}),
}
MESSAGES: list[object] = [
    {},
    {"role": "user"},
    {"content": "x"},
    {"role": "user", "content": None},
    {"role": "user", "content": 5},
    {"role": "", "content": "x"},
    {"role": "emperor", "content": "x"},
    {"role": "user", "content": "x", "position": 5},
    {"role": "user", "content": "x", "by": "root"},
    {"role": "user", "content": "x", "author": {"name": "x"}},
    {"role": "user", "content": "a\0"},
    {"role": "user", "content": "x", "author": "\ud800"},
]
GENERATIONS: list[object] = [
    {},
    {"model": None},
    {"model": 5},
    {"model": ""},
    {"model": "no such model"},
    {"model": "demo/x"},
    demo(input=5),
    demo(input=[{"role": "user"}]),
    demo(input=["x"]),
    demo(input="a\0"),
    demo(input=[{"role": "user", "content": "\udfff"}]),
    demo(if_running="explode"),
    demo(on_crash=1),
    demo(unknown=1),
    {"model": "demo", "parameters": []},
    {"model": "demo", "parameters": {"tokens": "x"}},
    {"model": "demo", "parameters": {"tokens": -1}},
    {"model": "demo", "parameters": {"tokens": 10**30}},
    {"model": "demo", "parameters": {"tokens": 1.5}},
    {"model": "demo", "parameters": {"rate": -1}},
    {"model": "demo", "parameters": {"seed": "\0"}},
    {"model": "demo", "parameters": {"speed": 5}},
]


@pytest.mark.parametrize("body", BODIES)
async def test_invalid_json_body_is_refused(api: Api, body: str) -> None:
    """Creating a conversation accepts nearly any object, so only the JSON itself is at fault."""
    newest = (await api.get("/v1/conversations", limit=1))["conversations"]
    sent, statuses = BODIES[body]
    answer = await api.http.post("/v1/conversations", content=sent, headers=JSON_TYPE)
    assert answer.status_code in statuses, answer.text
    check_problem(answer.status_code, answer.headers, answer.content)
    assert (await api.get("/v1/conversations", limit=1))["conversations"] == newest


@pytest.mark.parametrize("body", MESSAGES, ids=repr)
async def test_invalid_message_gets_422_naming_the_field(api: Api, body: object) -> None:
    conversation = await api.conversation()
    answer = await api.post(f"{conversation}/messages", body)
    assert answer.status_code == 422, answer.text
    problem = check_problem(422, answer.headers, answer.content)
    assert any(name in problem["detail"] for name in ("role", "content", "position", "by", "author"))
    assert len(await api.log(conversation)) == 1


@pytest.mark.parametrize("body", GENERATIONS, ids=repr)
async def test_invalid_generation_request_records_nothing(api: Api, body: object) -> None:
    """With and without a conversation, with a JSON or a streamed response."""
    conversation = await api.conversation()
    for path in (conversation, "/v1"):
        for accept in ("*/*", "text/event-stream"):
            answer = await api.post(f"{path}/generations", body, accept=accept)
            assert answer.status_code == 422, answer.text
            check_problem(422, answer.headers, answer.content)
    assert len(await api.log(conversation)) == 1


@pytest.mark.parametrize("form", ["json", "sse", "ndjson"])
async def test_invalid_cursor_gets_400(api: Api, form: str) -> None:
    """In the query and in the header, on every form. A cursor ahead of the log gets the log's head."""
    generation = await api.generate()
    await api.finished(generation)
    target = f"{generation}/events"
    for cursor in CURSORS:
        answer = await api.http.get(target, params={"after": cursor, "format": form})
        assert answer.status_code == 400, (cursor[:40], answer.status_code)
        check_problem(400, answer.headers, answer.content, "invalid_cursor", "cursor_ahead")
    for raw in ("-1", "abc", "1.5", "1_0", "+1", "9" * 30, "９", "\xff"):
        header = {b"Last-Event-ID": raw.encode()}
        answer = await api.http.get(f"{target}?after=1&format={form}", headers=header)
        assert answer.status_code == 400, raw
        check_problem(400, answer.headers, answer.content, "invalid_cursor", "cursor_ahead")
    answer = await api.http.get(target, params={"after": 10, "format": form})
    assert check_problem(400, answer.headers, answer.content, "cursor_ahead")["head"] == 9


@pytest.mark.parametrize(
    "query",
    [
        *("limit=x", "limit=-1", "limit=1.5", "limit=１", "limit=" + "9" * 5000),
        *("wait=x", "wait=-1", "wait=nan", "wait=inf", "wait=" + "9" * 5000),
    ],
    ids=lambda query: query[:20],
)
async def test_invalid_limit_or_wait_is_refused(api: Api, query: str) -> None:
    """Except that a number which is only too large may be taken as the maximum."""
    conversation = await api.conversation()
    with trio.fail_after(20):
        answer = await api.http.get(f"{conversation}/events?{query}")
    if query.endswith("999"):
        assert answer.status_code in (200, 400, 422)
    else:
        assert answer.status_code in (400, 422)
        check_problem(answer.status_code, answer.headers, answer.content)


@pytest.mark.parametrize("at", ["-1", "x", "1.5", "１", "9" * 30, "9" * 5000, "1_0", ""])
async def test_invalid_snapshot_position_gets_400(api: Api, at: str) -> None:
    generation = await api.generate()
    conversation = f"/v1/conversations/{(await api.get(generation))['conversation']}"
    for path in (generation, conversation):
        answer = await api.http.get(path, params={"at": at})
        check_problem(400, answer.headers, answer.content)


async def test_query_bytes_that_are_not_text_are_refused(api: Api) -> None:
    """Percent-encoded bytes where a number belongs."""
    conversation = await api.conversation()
    for query in (
        "after=%ff",
        "after=%00",
        "after=%c3%28",
        "after=1%00",
        "limit=%ff",
        "wait=%f0%28",
        "format=%ff",
    ):
        async with await Connection.open(api.port) as connection:
            head = await connection.ask("GET", f"{conversation}/events?{query}")
            check_problem(head.status, head.headers, await connection.body())
            assert 400 <= head.status < 500
