"""`examples/events.js` and `poll.js` in a real browser: through random cuts, and against a server that errs."""

import json
from typing import Any

import pytest

from tests.clients.api import Api
from tests.examples.cutting_proxy import RandomCuts, cutting
from tests.examples.page_checks import check_page, needs_pages
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, browsing
from tests.harness.servers import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

FOLLOW = """
async ([server, generation, conversation]) => {
    const { EventLog } = await import('/events.js');
    const { Poll } = await import('/poll.js');
    window.got = { log: [], posted: [], snapshots: [], states: { log: [], posted: [], poll: [] } };
    const log = { event: (event) => got.log.push(event), state: (...state) => got.states.log.push(state) };
    const posted = { event: (one) => got.posted.push(one), state: (...state) => got.states.posted.push(state) };
    const poll = {
        snapshot: (one) => got.snapshots.push(one),
        state: (...state) => got.states.poll.push(state),
    };
    new EventLog(server, `${generation}/events`, log);
    const asked = { model: 'demo', parameters: { tokens: 100, rate: 60 } };
    new EventLog(server, '/v1/generations', posted, null, asked);
    new Poll(server, generation, poll, null, 1);
}
"""
DONE = "Object.values(got.states).every((states) => (states.at(-1) ?? [])[0] === 'over')"


@pytest.mark.parametrize("seed", [1, 2])
async def test_through_random_cuts(server: Server, pages: str, seed: int) -> None:
    """Each has the whole log once, in order; a POST that was cut and sent again is one generation."""
    async with browsing() as browser, Api.open(server.port) as api:
        with cutting(server.port, seed) as proxy:
            page = browser.desktop
            await page.do("goto", f"{pages}/")
            conversation = await api.conversation()
            generation = await api.generate(conversation, tokens=150, rate=40)
            await page.do("evaluate", FOLLOW, [proxy.url, generation, conversation])
            await page.do("wait_for_function", DONE)
            got: dict[str, Any] = await page.do("evaluate", "got")
            assert proxy.cuts >= 3
        assert await browser.complaints() == []
        assert got["log"] == await api.log(generation)
        assert got["states"]["log"][-1] == ["over", "done"]
        posted = got["posted"][0]["generation"]
        assert got["posted"] == await api.log(f"/v1/generations/{posted}")
        assert got["snapshots"][-1] == await api.get(generation)
        positions = [one["position"] for one in got["snapshots"]]
        assert positions == sorted(set(positions)), "each is newer than the one before"
        conversations = (await api.get("/v1/conversations"))["conversations"]
        assert len(conversations) == 2, "that of the log, and one of the POST"


RIG = """
async ([module, answers]) => {
    window.asked = []; window.told = [];
    window.fetch = async (address, init) => {
        asked.push({ address, method: init.method ?? 'GET', ...init.headers });
        const [status, headers, body] = answers.shift() ?? [404, {}, '{"code": "not_found"}'];
        if (status === 0) throw new TypeError('Failed to fetch');
        return new Response(body, { status, headers });
    };
    const on = {
        event: ({ position }) => told.push(position),
        snapshot: ({ position }) => told.push(position),
        state: (...state) => told.push(state.join(' ')),
    };
    const { EventLog } = await import('/events.js');
    const { Poll } = await import('/poll.js');
    const began = performance.now();
    module === 'events' ? new EventLog('http://s', '/log', on) : new Poll('http://s', '/snapshot', on);
    while (!told.some((one) => String(one).startsWith('over'))) await new Promise((done) => setTimeout(done, 10));
    return { told, asked, took: performance.now() - began };
}
"""


def _event(position: int) -> str:
    return f'data: {{"position": {position}}}\nid: {position}\n\n'


async def _rig(pages: str, module: str, answers: list[list[Any]]) -> dict[str, Any]:
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/{module}.js")  # any address of that origin
        seen: dict[str, Any] = await browser.desktop.do("evaluate", RIG, [module, answers])
        assert await browser.complaints() == []
    return seen


async def test_an_event_log_resumes_behind_what_it_gave_out(pages: str) -> None:
    """Half a frame is not given out, a repeat is passed over, a heartbeat is no event, and [DONE] is the end."""
    answers = [
        [0, {}, None],
        [200, {}, "retry: 50\n\n" + _event(1) + ": sign of life\n" + _event(2) + 'data: {"position": 3'],
        [503, {"Retry-After": "1"}, '{"code": "unavailable"}'],
        [200, {}, "event: heartbeat\ndata: \n\n" + _event(2).replace("\n", "\r\n") + _event(3)],
        [200, {}, "id: 3\nretry: 10\n: overloaded\n\n"],
        [200, {}, _event(4) + "data: [DONE]\n\n" + _event(5)],
    ]
    seen = await _rig(pages, "events", answers)
    away = ["connecting", "away"]
    live = ["connecting", "live"]
    assert seen["told"] == [
        *away,
        *live,
        1,
        2,
        "away",
        *away,
        *live,
        3,
        "away",
        *live,
        "away",
        *live,
        4,
        "over done",
    ]
    assert [one.get("Last-Event-ID") for one in seen["asked"]] == [None, None, 2, 2, 3, 3]
    assert seen["took"] > 1_000, "Retry-After"


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [(204, None, "done"), (410, '{"code": "cursor_expired"}', "cursor_expired"), (404, "<p>", "status 404")],
)
async def test_an_event_log_that_is_over(pages: str, status: int, body: str | None, why: str) -> None:
    seen = await _rig(pages, "events", [[200, {}, _event(1)], [status, {}, body]])
    assert seen["told"] == ["connecting", "live", 1, "away", "connecting", f"over {why}"]


async def test_a_poll_asks_again_when_it_is_told_to(pages: str) -> None:
    """With the tag; 304 shows nothing anew; what breaks is asked for again; the end is the end."""
    running = json.dumps({"position": 3, "status": "running"})
    ended = json.dumps({"position": 9, "status": "completed"})
    answers = [
        [200, {"ETag": '"3"', "Retry-After": "1"}, running],
        [304, {"Retry-After": "1"}, None],
        [0, {}, None],
        [200, {"ETag": '"7"'}, running[:9]],
        [429, {"Retry-After": "1"}, '{"code": "rate_limited"}'],
        [200, {"ETag": '"9"'}, ended],
    ]
    seen = await _rig(pages, "poll", answers)
    assert seen["told"] == ["polling", 3, "polling", "away", "away", "away", "polling", 9, "over done"]
    assert [one.get("If-None-Match") for one in seen["asked"]] == [None, *['"3"'] * 5]
    assert seen["took"] > 3_000, "Retry-After"


async def test_a_poll_of_what_is_gone_ends(pages: str) -> None:
    seen = await _rig(pages, "poll", [[410, {}, '{"code": "gone"}']])
    assert seen["told"] == ["over gone"]


@needs_pages
async def test_the_index_is_for_everybody(pages: str) -> None:
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/?server=http://127.0.0.1:9")
        await check_page(browser.desktop)
        link = await browser.desktop.do("evaluate", "document.querySelector('#apps a').href")
        assert link == f"{pages}/smart_exam/page.html?server=http://127.0.0.1:9"
        assert await browser.complaints() == []


def test_a_seed_gives_the_same_cuts() -> None:
    first, again, other = ([next(cuts) for _ in range(50)] for cuts in map(RandomCuts, (1, 1, 2)))
    assert first == again != other
    assert any(end.after_bytes < 1_000 for end in first)
    assert any(end.after_seconds < 1 for end in first)
    assert any(end.after_bytes == end.after_seconds for end in first), "some are left alone"


BAD_PAGE = """
<!doctype html><html lang="en"><title>Bad</title><meta name="viewport" content="width=device-width">
<main><h1>Bad</h1><button></button><p style="color: #999; background: #aaa">pale</p>
<p style="width: 1000px">wide</p>
<script>console.error("said by the page")</script></main>
"""


@needs_pages
async def test_a_bad_page_is_found_out(pages: str) -> None:
    """A button without a name, pale text, something wide on the phone, an error in the console."""
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/")
        await browser.desktop.do("set_content", BAD_PAGE)
        with pytest.raises(AssertionError) as found:
            await check_page(browser.desktop)
    told = str(found.value)
    for colours in ("light", "dark"):
        assert f"1280 pixels, {colours}: color-contrast" in told
        assert f"360 pixels, {colours}: color-contrast" in told
        assert f"360 pixels, {colours}: something stands out to the right" in told
    assert "1280 pixels, light: button-name" in told
    assert "360 pixels, dark: button-name" in told
    assert "1280 pixels, light: something" not in told
    assert "said by the page" in told
