"""WebSockets that the dispatcher serves, and those that it passes on to the framework: the same messages for both.

The dispatcher does not know an address with a slash at its end: such an upgrade goes through the framework.
"""

from __future__ import annotations

from typing import Any

import pytest

from server.ids import new_id

from .asgi import Answered, web

KEY = "a key of sixteen"
ASKED: dict[str, dict[str, Any]] = {
    "from the start": {},
    "behind a cursor": {"query": "after=2"},
    "what comes": {"query": "after=now"},
    "some types": {"query": "after=0&types=message.posted&author=Ann"},
    "a bad cursor": {"query": "after=x"},
    "a cursor ahead": {"query": "after=99"},
    "a bad type": {"query": "types=nothing"},
    "a bad name": {"query": "author="},
    "a command": {"texts": [{"id": "c1", "do": "post", "key": KEY, "role": "user", "content": "again"}]},
    "a resync": {"texts": [{"id": "c1", "do": "resync", "after": 1}]},
    "no command": {"texts": [{"id": "c1", "do": "nothing"}]},
    "a foreign host": {"headers": {"Host": "evil.example"}},
    "a foreign origin": {"headers": {"Origin": "http://evil.example"}},
    "a named request": {"headers": {"X-Request-ID": "mine"}},
}


def told(answer: Answered) -> tuple[object, ...]:
    """All that was said, but for what is drawn anew for each."""
    headers = dict(answer.headers)
    headers["x-request-id"] = "mine" if headers["x-request-id"] == "mine" else "drawn"
    frames = [dict(frame) for frame in answer.frames]
    for frame in frames:
        if frame["kind"] == "presence":
            frame["you"] = ""
            frame["people"] = [{**one, "connection": "", "since": ""} for one in frame["people"]]
    return answer.accepted, answer.status, headers, answer.body, frames, answer.closed


@pytest.mark.parametrize("asked", ASKED)
async def test_dispatcher_and_framework_send_the_same(asked: str) -> None:
    """The command's key makes the second one the answer of the first: nothing is added between the two."""
    async with web() as app:
        made = (await app.post("/v1/conversations", {})).json
        address = f"/v1/conversations/{made['id']}"
        await app.post(f"{address}/messages", {"role": "user", "content": "hello"})
        if "texts" in ASKED[asked]:  # whose event is there already when either way is asked
            await app.upgrade(f"{address}/ws", **ASKED[asked])
        dispatched, passed_on = [await app.upgrade(f"{address}/{end}", **ASKED[asked]) for end in ("ws", "ws/")]
        assert told(dispatched) == told(passed_on)
        assert dispatched.accepted == ("foreign" not in asked)


async def test_an_unknown_conversation_and_a_stopping_server() -> None:
    """The first is refused after the upgrade, because a page sees no status; the second before it."""
    async with web() as app:
        address = f"/v1/conversations/{new_id('conv')}"
        dispatched, passed_on = [await app.upgrade(f"{address}/{end}") for end in ("ws", "ws/")]
        assert told(dispatched) == told(passed_on)
        assert (dispatched.accepted, dispatched.closed) == (True, 4404)
        app.runtime.drain.begin(0)
        dispatched, passed_on = [await app.upgrade(f"{address}/{end}") for end in ("ws", "ws/")]
        assert told(dispatched) == told(passed_on)
        assert (dispatched.accepted, dispatched.status, dispatched.code) == (False, 503, "draining")
