"""Polling: ETags, long polls on snapshots and on pages, and what wakes them."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
import trio
import trio.testing

from tests.clients.api import Api

PATIENCE = 20.0
ways_to_wait = pytest.mark.parametrize("way", ["header", "query"])


async def get(
    api: Api, path: str, way: str, seconds: int, etag: str | None = None, **query: Any
) -> httpx2.Response:
    """A GET that waits, by `Prefer` or by `?wait=`."""
    headers = {} if etag is None else {"If-None-Match": etag}
    if way == "header":
        headers["Prefer"] = f"wait={seconds}"
    else:
        query["wait"] = seconds
    return await api.http.get(path, params=query, headers=headers)


async def test_etag_is_the_position_and_gives_304(api: Api) -> None:
    conversation = await api.conversation()
    generation = await api.generate(conversation)
    last = (await api.finished(generation))[-1]["position"]
    await api.message(conversation)
    for path, position in ((conversation, last + 1), (generation, last)):
        answer = await api.http.get(path)
        assert answer.json()["position"] == position
        assert answer.headers["ETag"] == f'"{position}"'
        for known in (f'"{position}"', f'W/"{position}"', "*", f'"x", "{position}"'):
            again = await api.http.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b""), known
            assert again.headers["ETag"] == f'"{position}"'
        for stale in (f'"{position - 1}"', f'"{position}0"', "unquoted", ""):
            again = await api.http.get(path, headers={"If-None-Match": stale})
            assert (again.status_code, again.json()) == (200, answer.json())


@ways_to_wait
async def test_held_snapshot_responds_when_it_changes(api: Api, nursery: trio.Nursery, way: str) -> None:
    """Long before the wait is over."""
    conversation = await api.conversation()
    answers: list[httpx2.Response] = []

    async def poll() -> None:
        answers.append(await get(api, conversation, way, 50, '"1"'))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as polls:
            polls.start_soon(poll)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert answers == []
            await api.message(conversation)
    assert (answers[0].status_code, answers[0].json()["position"]) == (200, 2)


@ways_to_wait
async def test_held_snapshot_without_change_gets_304_after_the_wait(api: Api, way: str) -> None:
    """Not earlier."""
    conversation = await api.conversation()
    start = trio.current_time()
    with trio.fail_after(PATIENCE):
        answer = await get(api, conversation, way, 1, '"1"')
    assert answer.status_code == 304
    assert trio.current_time() - start >= 0.9


@ways_to_wait
async def test_request_without_current_etag_does_not_wait(api: Api, way: str) -> None:
    """Neither without an ETag nor with an old one."""
    conversation = await api.conversation()
    await api.message(conversation)
    with trio.fail_after(PATIENCE):
        for etag in (None, '"1"'):
            assert (await get(api, conversation, way, 50, etag)).json()["position"] == 2


async def test_poller_of_a_generation_is_woken_by_that_generation_only(api: Api) -> None:
    """Not by messages of its conversation."""
    conversation = await api.conversation()
    answers: list[httpx2.Response] = []

    async def poll(path: str, etag: str) -> None:
        answers.append(await get(api, path, "query", 40, etag))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as polls:
            async with api.busy(conversation) as generation:
                log = await api.reached(generation, 3)  # the first token; the next is far away
                etag = (await api.http.get(generation)).headers["ETag"]
                assert etag == f'"{log[-1]["position"]}"'
                polls.start_soon(poll, generation, etag)
                await trio.testing.wait_all_tasks_blocked(0.1)
                for _ in range(3):
                    await api.message(conversation)
                start = trio.current_time()
                unchanged = await get(api, generation, "query", 1, etag)
                assert unchanged.status_code == 304
                assert trio.current_time() - start >= 0.9
                assert answers == []
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "cancelled")


async def test_later_generation_does_not_change_the_etag_of_an_earlier_one(api: Api) -> None:
    """Its position and ETag are those of its own last event."""
    conversation = await api.conversation()
    first = await api.generate(conversation)
    log = await api.finished(first)
    before = await api.http.get(first)
    await api.finished(await api.generate(conversation))
    after = await api.http.get(first)
    assert after.headers["ETag"] == before.headers["ETag"] == f'"{log[-1]["position"]}"'
    assert after.json() == before.json()
    assert (await get(api, first, "query", 1, before.headers["ETag"])).status_code == 304


async def test_retry_after_is_sent_only_while_the_run_is_going(api: Api) -> None:
    conversation = await api.conversation()
    async with api.busy(conversation) as generation:
        running = await api.http.get(generation)
        assert running.json()["status"] == "running"
        assert int(running.headers["Retry-After"]) >= 1
        again = await api.http.get(generation, headers={"If-None-Match": running.headers["ETag"]})
        assert again.status_code == 304
    assert "Retry-After" not in (await api.http.get(generation)).headers


@ways_to_wait
@pytest.mark.parametrize("kind", ["conversation", "generation"])
async def test_held_page_responds_with_new_events(api: Api, way: str, kind: str) -> None:
    conversation = await api.conversation()
    answers: list[httpx2.Response] = []
    async with api.busy(conversation) as generation:
        path = f"{conversation if kind == 'conversation' else generation}/events"
        head = (await api.reached(generation, 3))[-1]["position"]

        async def poll() -> None:
            answers.append(await get(api, path, way, 50, after=head))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as polls:
                polls.start_soon(poll)
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert answers == []
                await api.post(f"{generation}/cancel", {})
    page = answers[0].json()
    assert [event["type"] for event in page["events"]] == ["generation.cancelled"]
    assert (page["next"], page["closed"]) == (head + 1, kind == "generation")


async def test_held_page_without_new_events_is_empty_after_the_wait(api: Api) -> None:
    """A page that has events is not held."""
    conversation = await api.conversation()
    start = trio.current_time()
    with trio.fail_after(PATIENCE):
        page = await api.get(f"{conversation}/events", after=1, wait=1)
        assert trio.current_time() - start >= 0.9
        assert (page["events"], page["next"], page["up_to_date"], page["closed"]) == ([], 1, True, False)
        assert len((await api.get(f"{conversation}/events", wait=50))["events"]) == 1


@pytest.mark.parametrize(("asked", "applied"), [("wait=7", "wait=7"), ("wait=600", "wait=50")])
async def test_preference_applied_tells_the_wait(api: Api, asked: str, applied: str) -> None:
    """At most 50 seconds (RFC 7240)."""
    conversation = await api.conversation()
    for path in (f"{conversation}/events", conversation):
        answer = await api.http.get(path, headers={"Prefer": asked})
        assert answer.status_code == 200
        assert answer.headers["Preference-Applied"].replace(" ", "") == applied


@pytest.mark.parametrize("prefer", ["wait=abc", "wait=-1", "wait", "respond-async", ";;,=", "return=minimal"])
async def test_unknown_preference_is_ignored(api: Api, prefer: str) -> None:
    """As RFC 7240 demands."""
    conversation = await api.conversation()
    with trio.fail_after(PATIENCE):
        answer = await api.http.get(f"{conversation}/events?after=1", headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["events"]) == (200, [])
