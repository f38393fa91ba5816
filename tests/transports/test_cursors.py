"""Cursors on every form of `…/events`: which one counts, what `now` means, and when a log is complete."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.clients import ndjson, sse
from tests.clients.api import Api
from tests.clients.http1 import Connection

FORMS = ("json", "ndjson", "sse")
on_forms = pytest.mark.parametrize("form", FORMS)


async def positions(api: Api, target: str, form: str, headers: dict[str, str] | None = None) -> list[int]:
    """Positions of the events in one response about a finished generation."""
    query = f"{'&' if '?' in target else '?'}format={form}"
    answer = await api.http.get(target + query, headers=headers)
    assert answer.status_code in (200, 204), answer.text
    if form == "json":
        return [event["position"] for event in answer.json()["events"]]
    if form == "ndjson":
        return [event["position"] for event in ndjson.Parser().feed(answer.content)]
    return [int(frame.id) for frame in sse.Parser().feed(answer.content) if frame.data and frame.id]


@on_forms
@pytest.mark.parametrize(
    ("header", "query", "first"),
    [
        (None, "", 2),
        (None, "?after=0", 2),
        (None, "?after=6", 7),
        ("6", "", 7),
        ("6", "?after=3", 7),
        ("3", "?after=6", 4),
        ("0", "?after=6", 2),
        ("", "?after=6", 7),
        ("", "", 2),
    ],
)
async def test_last_event_id_header_overrides_the_query(
    api: Api, form: str, header: str | None, query: str, first: int
) -> None:
    """An empty header counts as none."""
    generation = await api.generate(tokens=8)
    await api.finished(generation)
    headers = {} if header is None else {"Last-Event-ID": header}
    found = await positions(api, f"{generation}/events{query}", form, headers)
    assert found == list(range(first, 13))


@on_forms
async def test_cursor_at_the_end_of_a_finished_generation(api: Api, form: str) -> None:
    """Streams respond with 204, so that an EventSource stops reconnecting; pages are marked closed."""
    conversation = await api.conversation()
    generation = await api.generate(conversation)
    last = (await api.finished(generation))[-1]["position"]
    after = [last, *[(await api.message(conversation))["position"] for _ in range(2)]]
    for cursor in after:
        answer = await api.http.get(f"{generation}/events", params={"after": cursor, "format": form})
        if form == "json":
            assert answer.status_code == 200
            page = answer.json()
            assert (page["events"], page["closed"], page["up_to_date"]) == ([], True, True)
            assert cursor <= page["next"] <= after[-1]
        else:
            assert (answer.status_code, answer.content) == (204, b"")
            assert "Content-Length" not in answer.headers  # RFC 9110, 8.6
    still = await api.http.get(f"{generation}/events", params={"after": last - 1, "format": form})
    assert still.status_code == 200


@on_forms
async def test_cursor_now_on_a_finished_generation_gives_nothing(api: Api, form: str) -> None:
    generation = await api.generate()
    await api.finished(generation)
    answer = await api.http.get(f"{generation}/events", params={"after": "now", "format": form})
    if form == "json":
        assert (answer.json()["events"], answer.json()["closed"]) == ([], True)
    else:
        assert answer.status_code == 204


@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_stream_of_a_conversation_stays_open_after_a_run(api: Api, form: str) -> None:
    """It delivers later events too."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation))
    async with await Connection.open(api.port) as connection:
        head = await connection.ask("GET", f"{conversation}/events?format={form}&after=1")
        assert head.status == 200
        with trio.fail_after(20):
            text = b""
            while b"generation.completed" not in text:
                text += await connection.receive()
            message = await api.message(conversation, "still there?")
            while message["message"].encode() not in text:
                data = await connection.receive()
                assert data, "the stream ended"
                text += data
    assert b"[DONE]" not in text


async def test_logs_of_two_runs_hold_their_own_events_only(api: Api) -> None:
    """Positions have gaps where the other run's events are."""
    conversation = await api.conversation()
    first = await api.generate(conversation)
    await api.finished(first)
    await api.message(conversation)
    async with api.busy(conversation) as second:
        await api.message(conversation)
    await api.finished(second)
    whole = await api.log(conversation)
    assert [event["type"] for event in whole].count("message.posted") == 2
    for path in (first, second):
        name = path.rpartition("/")[2]
        assert await api.log(path) == [event for event in whole if event.get("generation") == name]


async def test_pages_of_one_event(api: Api) -> None:
    """`next` skips events of others, and only the last page is closed."""
    conversation = await api.conversation()
    for _ in range(5):
        await api.message(conversation)
    async with api.busy(conversation) as generation:
        for _ in range(5):
            await api.message(conversation)
    mine = await api.finished(generation)
    pages: list[dict[str, Any]] = []
    cursor = 0
    while not pages or not pages[-1]["closed"]:
        pages.append(await api.get(f"{generation}/events", after=cursor, limit=1))
        assert pages[-1]["next"] > cursor
        assert pages[-1].keys() >= {"events", "next", "up_to_date", "closed"}
        assert len(pages[-1]["events"]) <= 1
        cursor = pages[-1]["next"]
    assert [event for page in pages for event in page["events"]] == mine
    assert pages[-1]["up_to_date"]


async def test_next_advances_past_events_that_do_not_match(api: Api) -> None:
    """Otherwise every poll would scan the same events again."""
    conversation = await api.conversation()
    async with api.busy(conversation) as generation:
        cursor = (await api.reached(generation, 3))[-1]["position"]
        for _ in range(5):
            head = (await api.message(conversation))["position"]
        page = await api.get(f"{generation}/events", after=cursor)
        assert (page["events"], page["next"], page["up_to_date"], page["closed"]) == ([], head, True, False)


async def test_default_page_has_500_events(api: Api) -> None:
    """It says that there are more; a larger limit gets all at once."""
    generation = await api.generate(tokens=600)
    log = await api.finished(generation)
    page = await api.get(f"{generation}/events")
    assert page["events"] == log[:500]
    assert (page["next"], page["up_to_date"], page["closed"]) == (log[499]["position"], False, False)
    assert (await api.get(f"{generation}/events", limit=5000))["events"] == log


async def test_pages_of_a_conversation_never_close(api: Api) -> None:
    """A conversation can always go on."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation))
    page = await api.get(f"{conversation}/events")
    assert (page["next"], page["up_to_date"], page["closed"]) == (9, True, False)
    page = await api.get(f"{conversation}/events", after="now")
    assert (page["events"], page["next"], page["up_to_date"], page["closed"]) == ([], 9, True, False)
