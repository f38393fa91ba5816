"""The slider in a real browser: the next sentence is graded by it, and everybody sees from where."""

import pytest

from examples.live_grading.app import Mark, mark, split
from tests.clients.api import Api
from tests.examples.browser_pages import browsing
from tests.harness.browser import CHROMIUM, NO_CHROMIUM
from tests.harness.servers import ROOT, Server


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_the_slider_moves_and_the_next_sentence_is_graded_so(server: Server, pages: str) -> None:
    """Moved on the phone by keyboard; both pages say where it counts from, and the result agrees."""
    async with browsing() as browser, Api.open(server.port) as api:
        desktop, phone = browser.desktop, browser.phone
        await desktop.do("goto", f"{pages}/live_grading/page.html?server={server.url}")
        await desktop.do("fill", "#essay [name=pace]", "0.1")
        await desktop.do("click", "#essay button")
        await desktop.do("wait_for_url", "**#conv_*")
        await phone.do("goto", await desktop.do("evaluate", "location.href"))
        await phone.see("#marks li:nth-child(2)")
        await phone.do("press", "#slider", "End")
        await desktop.see("#changes .works")
        await desktop.see("#average")
        await phone.see("#average")
        for part in ("#marks", "#changes", "#average", "#strictness"):
            assert await desktop.text(part) == await phone.text(part)
        assert await desktop.text("#strictness") == "10"
        assert await desktop.fits()
        assert await phone.fits()
        assert await browser.hosts() == ["127.0.0.1"]
        assert await browser.complaints() == []

        conversation = await desktop.do("evaluate", "location.hash.slice(1)")
        run = (await api.get(f"/v1/conversations/{conversation}"))["generations"][0]
        events = await api.finished(f"/v1/generations/{run['id']}")
        change = next(event for event in events if event["type"] == "steering.changed")
        starts = [event for event in events if event["type"] == "progress"]
        first = next(start for start in starts if start["position"] > change["position"])
        marks = [Mark(**one) for one in run["result"]["marks"]]
        assert 0 < first["done"] < len(marks)
        assert [one.strictness for one in marks] == [5] * first["done"] + [10] * (len(marks) - first["done"])
        assert marks == [mark(one.sentence, one.strictness) for one in marks]
        says = (
            f"Position {change['position']}: anonymous sets 10. In effect from sentence {first['done'] + 1} on, "
        )
        assert await phone.text("#changes") == f"{says}position {first['position']}."


async def test_bounds_are_the_models(server: Server) -> None:
    """An empty text and a strictness of eleven are refused, and say why."""
    async with Api.open(server.port) as api:
        refused = await api.post("/v1/generations", {"workflow": "live_grading", "input": {"text": ""}})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
        body = {"workflow": "live_grading", "input": {"text": "One. Two.", "pace": 5}}
        run = (await api.post("/v1/generations", body)).headers["Location"]
        for value in (11, 0, "6", None):
            refused = await api.post(f"{run}/steer", {"name": "strictness", "value": value})
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_value")
        await api.post(f"{run}/cancel", {})


def test_marks_follow_strictness() -> None:
    """More strictness never gives a better mark."""
    for sentence in split("It was really very quiet. the the end, and it went on and on and on"):
        given = [mark(sentence, strictness).mark for strictness in range(1, 11)]
        assert given == sorted(given, reverse=True)
        assert given[0] > given[-1] >= 1
    assert {mark("The bell rang.", strictness).mark for strictness in range(1, 9)} == {10}
    assert split("  \n ") == ["  \n "]


def test_the_slider_is_seen() -> None:
    """On the page's own text: at 1 nearly everything passes, at 10 nothing does."""
    page = (ROOT / "examples" / "live_grading" / "page.html").read_text(encoding="utf-8")
    sentences = split(page.split("<textarea", 1)[1].split(">", 1)[1].split("</textarea>")[0])
    mildest, middle, strictest = ([mark(one, at) for one in sentences] for at in (1, 5, 10))
    assert sum(one.mark >= 9 for one in mildest) >= len(sentences) - 1
    assert not any(one.mark >= 9 or one.remarks == ["Good."] for one in strictest)
    averages = [sum(one.mark for one in each) / len(each) for each in (mildest, middle, strictest)]
    assert averages[0] - averages[2] > 4
    assert averages[0] > averages[1] > averages[2]
