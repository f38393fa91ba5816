"""The exam app in a real browser: the tutor's chat, the slider, and the batch, over a network that breaks."""

from itertools import cycle
from pathlib import Path
from typing import Any

from pypdf import PdfWriter

from examples.run_all import EXAMPLES
from examples.smart_exam.app import PaperGrades
from examples.smart_exam.marking_rules import Mark, mark, split
from tests.clients.api import Api
from tests.examples.conftest import ALLOWED
from tests.examples.cutting_proxy import cutting
from tests.examples.page_checks import check_page, needs_pages
from tests.harness.browser import Page, browsing
from tests.harness.servers import ROOT, Server

SAID = "[...document.querySelectorAll('.said p')].map((p) => p.textContent)"


@needs_pages
async def test_a_lesson_over_a_network_that_breaks(server: Server, pages: str) -> None:
    """Each question is asked once, each answer is whole, and a second window shows the same as the first."""
    async with browsing() as browser, Api.open(server.port) as api:
        with cutting(server.port, seed=5) as proxy:
            ALLOWED.append(proxy.url)
            desktop, phone = browser.desktop, browser.phone
            await desktop.do("goto", f"{pages}/smart_exam/page.html?server={proxy.url}")
            await check_page(desktop)
            await desktop.do("click", "#lesson .main")
            await desktop.see("#stop")
            assert await desktop.do("is_disabled", "#question .main")
            await desktop.do("reload")
            await phone.do("goto", await desktop.do("evaluate", "location.href"))
            for page in (desktop, phone):
                await _answered(page, 1)
            await phone.do("fill", "#question input", "And at night?")
            await phone.do("press", "#question input", "Enter")
            for page in (desktop, phone):
                await _answered(page, 2)
            assert proxy.cuts >= 3
            said: list[str] = await desktop.do("evaluate", SAID)
            assert await phone.do("evaluate", SAID) == said
        await check_page(desktop)
        assert await browser.hosts() == ["127.0.0.1"]
        assert await browser.complaints() == []
        conversation = await desktop.do("evaluate", "location.hash.slice(1)")
        found = await api.get(f"/v1/conversations/{conversation}")
        assert [message["role"] for message in found["messages"]] == ["system", "user", "user"]
        questions = [message["content"] for message in found["messages"][1:]]
        answers = [generation["text"] for generation in found["generations"]]
        assert said == [questions[0], answers[0], questions[1], answers[1]]


async def _answered(page: Page, count: int) -> None:
    await page.do("wait_for_function", f"document.querySelectorAll('.tutor:not(.writing)').length === {count}")


@needs_pages
async def test_an_answer_outlives_its_server(server: Server, pages: str) -> None:
    """Killed in the middle, the answer is asked for again from the beginning; stopped, it says so."""
    async with browsing() as browser, Api.open(server.port) as api:
        page = browser.desktop
        await page.do("goto", f"{pages}/smart_exam/page.html?server={server.url}")
        await page.do("click", "#lesson .main")
        await page.do("wait_for_function", "document.querySelector('.tutor')?.textContent.length > 50")
        await server.kill()
        await page.see("#state[data-state=away]")
        await server.start()
        await _answered(page, 1)
        conversation = await page.do("evaluate", "location.hash.slice(1)")
        (generation,) = (await api.get(f"/v1/conversations/{conversation}"))["generations"]
        assert generation["attempt"] == 2
        assert await page.text(".tutor") == generation["text"].strip()
        await page.do("fill", "#question input", "More!")
        await page.do("press", "#question input", "Enter")
        await page.do("click", "#stop")
        await page.see("text=Stopped.")
        await _answered(page, 2)
        assert await browser.complaints() == []


@needs_pages
async def test_the_slider_changes_the_feedback_while_it_is_written(server: Server, pages: str) -> None:
    """Moved on the phone by keyboard; both pages say where it counts from, and the log agrees."""
    async with browsing() as browser, Api.open(server.port) as api:
        with cutting(server.port, seed=11) as proxy:
            ALLOWED.append(proxy.url)
            desktop, phone = browser.desktop, browser.phone
            await desktop.do("goto", f"{pages}/smart_exam/grading.html?server={proxy.url}")
            await check_page(desktop)
            await desktop.do("fill", "#essay [name=pace]", "0.1")
            await desktop.do("click", "#essay button")
            await desktop.do("wait_for_url", "**#conv_*")
            await phone.do("goto", await desktop.do("evaluate", "location.href"))
            # In the middle of a sentence: three words of the second one are written.
            await phone.do("wait_for_function", f"{REMARK}?.textContent.split(' ').length > 3")
            await phone.do("press", "#slider", "End")
            await desktop.see("#changes .works")
            await check_page(phone)
            for page in (desktop, phone):
                await page.see("#average")
            for part in ("#marks", "#changes", "#average", "#strictness"):
                assert await desktop.text(part) == await phone.text(part)
        assert await desktop.text("#strictness") == "10"
        assert await browser.hosts() == ["127.0.0.1"]
        assert await browser.complaints() == []

        conversation = await desktop.do("evaluate", "location.hash.slice(1)")
        run = (await api.get(f"/v1/conversations/{conversation}"))["generations"][0]
        events = await api.finished(f"/v1/generations/{run['id']}")
        changed = next(at for at, event in enumerate(events) if event["type"] == "steering.changed")
        effect = next(event for event in events[changed + 2 :] if event["type"] == "token")
        begun = sum(event["type"] == "progress" for event in events if event["position"] < effect["position"])
        says = f"Position {events[changed]['position']}: anonymous sets 10. In effect from position "
        assert await phone.text("#changes") == f"{says}{effect['position']} on, in sentence {begun}."
        marks = [Mark(**one) for one in run["result"]["marks"]]
        assert 1 < begun < len(marks)
        assert [one.strictness for one in marks] == [5] * (begun - 1) + [10] * (len(marks) - begun + 1)
        assert marks == [mark(one.sentence, one.strictness) for one in marks]


REMARK = "document.querySelectorAll('.remark')[1]"


async def test_the_mark_that_counts_was_given_at_the_strictness_of_its_last_word(server: Server) -> None:
    """Whenever the slider moves, also back again: from the log alone."""
    async with Api.open(server.port) as api:
        text = " ".join(["It was really very quiet, and basically nothing at all moved there."] * 200)
        body = {"workflow": "live_grading", "input": {"text": text, "pace": 0.02}}
        run = (await api.post("/v1/generations", body)).headers["Location"]
        moves = cycle((9, 1, 10, 5, 7))
        while (await api.get(run))["text"].count("Now at strictness") < 3:
            told = await api.post(f"{run}/steer", {"name": "strictness", "value": next(moves)})
            assert told.status_code == 200, told.text
            await _finish_sentence(api, run, told.json()["position"])
        await api.post(f"{run}/cancel", {})
        events = await api.finished(run)
    strictness, at_last_word, given = 5, 5, []
    for event in events:
        if event["type"] == "steering.changed":
            strictness = event["value"]
        elif event["type"] == "token":
            at_last_word = strictness
        elif event["type"] == "step.finished":
            given.append((event["result"]["strictness"], at_last_word))
    assert len(given) >= 3
    assert all(counted == last for counted, last in given), given


async def _finish_sentence(api: Api, run: str, position: int) -> None:
    """Waits for the end of a sentence behind a position."""
    finished: list[Any] = []
    while not finished:
        page = await api.get(f"{run}/events", after=position, wait=20, types="step.finished")
        finished, position = page["events"], page["next"]


async def test_a_grading_outlives_its_server(server: Server) -> None:
    """Marks that were given stay, and only the sentence that was begun is graded anew."""
    async with Api.open(server.port) as api:
        text = " ".join(f"Sentence number {number} is here." for number in range(8))
        body = {"workflow": "live_grading", "input": {"text": text, "pace": 0.05}}
        run = (await api.post("/v1/generations", body)).headers["Location"]
        steps: list[Any] = []
        after = 0
        while len(steps) < 3:
            page = await api.get(f"{run}/events", after=after, wait=20, types="step.finished")
            steps, after = steps + page["events"], page["next"]
        await server.kill()
        await server.start()
        events = await api.finished(run)
        marks = (await api.get(run))["result"]["marks"]
    given = [event["result"] for event in events if event["type"] == "step.finished"]
    assert given == marks
    assert [one["sentence"] for one in marks] == split(text)
    assert sum(event["type"] == "generation.started" for event in events) == 2


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
    page = (ROOT / "examples" / "smart_exam" / "grading.html").read_text(encoding="utf-8")
    sentences = split(page.split("<textarea", 1)[1].split(">", 1)[1].split("</textarea>")[0])
    mildest, middle, strictest = ([mark(one, at) for one in sentences] for at in (1, 5, 10))
    assert sum(one.mark >= 9 for one in mildest) >= len(sentences) - 1
    assert not any(one.mark >= 9 or one.remarks == ["Good."] for one in strictest)
    averages = [sum(one.mark for one in each) / len(each) for each in (mildest, middle, strictest)]
    assert averages[0] - averages[2] > 4
    assert averages[0] > averages[1] > averages[2]


@needs_pages
async def test_a_batch_is_polled_over_a_network_that_breaks(server: Server, pages: str, tmp_path: Path) -> None:
    """Uploaded once each, graded once each; closed and opened again on a phone it is the same job."""
    broken, empty = tmp_path / "broken.pdf", tmp_path / "empty.pdf"
    broken.write_bytes(b"%PDF-1.4\nnothing else")
    with empty.open("wb") as file:
        writer = PdfWriter()
        writer.add_blank_page(100, 100)
        writer.write(file)
    papers = [*sorted((EXAMPLES / "smart_exam" / "samples").glob("*.pdf")), broken, empty]
    async with browsing() as browser, Api.open(server.port) as api:
        with cutting(server.port, seed=3) as proxy:
            ALLOWED.append(proxy.url)
            desktop, phone = browser.desktop, browser.phone
            await desktop.do("goto", f"{pages}/smart_exam/batch.html?server={proxy.url}")
            await desktop.do("set_input_files", "[name=papers]", [str(paper) for paper in papers])
            await desktop.do("click", "#batch .main")
            await desktop.do("wait_for_url", "**#gen_*")
            address = await desktop.do("evaluate", "location.href")
            await desktop.see("text=of 6 pages")
            await desktop.do("goto", f"{pages}/")
            await phone.do("goto", address)
            await phone.see("#papers tr")
            await phone.see("#state[data-state=done]")
        await check_page(phone)
        rows = await phone.do(
            "evaluate", "[...document.querySelectorAll('#papers tr')].map((row) => row.innerText)"
        )
        assert [row.split("\t")[0].strip() for row in rows] == [paper.name for paper in papers]
        assert await browser.complaints() == []
        generation = address.partition("#")[2]
        run = await api.get(f"/v1/generations/{generation}")
        grades = [PaperGrades(**one) for one in run["result"]["papers"]]
        assert [one.pages for one in grades] == [2, 3, 1, 0, 0]
        assert [one.trouble for one in grades[:3]] == [None] * 3
        assert "no PDF" in (grades[3].trouble or "")
        assert "No page has text" in (grades[4].trouble or "")
        assert all((one.average or 0) > (grades[1].average or 0) for one in (grades[0], grades[2]))
        assert len((await api.get("/v1/conversations"))["conversations"]) == 1


async def test_a_batch_outlives_its_server(server: Server) -> None:
    """Six pages are six steps, through a killed server; an unknown file is refused before anything runs."""
    async with Api.open(server.port) as api:
        files = []
        for paper in sorted((EXAMPLES / "smart_exam" / "samples").glob("*.pdf")):
            answer = await api.http.post(
                "/v1/files", content=paper.read_bytes(), headers={"Content-Type": "application/pdf"}
            )
            assert answer.status_code == 201, answer.text
            files.append({"name": paper.name, "file": answer.json()["digest"]})
        body = {"workflow": "batch_grading", "input": {"papers": files, "pace": 0.2}}
        run = (await api.post("/v1/generations", body)).headers["Location"]
        while not (await api.get(f"{run}/events", types="step.finished"))["events"]:
            await api.get(run, wait=1)
        await server.kill()
        await server.start()
        events = await api.finished(run)
        assert sum(event["type"] == "step.finished" for event in events) == 6
        assert [one["pages"] for one in (await api.get(run))["result"]["papers"]] == [2, 3, 1]
        body["input"] = {"papers": [{"name": "none.pdf", "file": "0" * 64}]}
        refused = await api.post("/v1/generations", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "file_unknown")
