"""The document summariser: what 200 pollers and a killed server cost the model, and what its page shows."""

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from examples.doc_summ.handbook import EMPTY, TOPICS, write_handbook
from examples.doc_summ.pdf_pages import UnreadablePdf, read_pages
from examples.doc_summ.sentence_ranking import best_sentences, find_answers, weigh_words
from tests.clients.api import Api
from tests.examples.conftest import ALLOWED
from tests.examples.cutting_proxy import cutting
from tests.examples.page_checks import check_page, needs_pages
from tests.harness.browser import Page, browsing
from tests.harness.databases import TestDatabase
from tests.harness.fake_upstream import FakeUpstream, fake_upstream
from tests.harness.servers import Server, running

PAGES = len(TOPICS)
POLLERS, EVERY = 200, 2.0


@asynccontextmanager
async def serving(database: TestDatabase, upstream: FakeUpstream) -> AsyncIterator[Server]:
    """The app, with a provider that counts its requests."""
    env = {
        "TOKENTAPE_WORKFLOWS": "examples.doc_summ.app",
        "OPENAI_BASE_URL": upstream.base_url,
        "OPENAI_API_KEY": "test-key",
    }
    async with running(database.app_url, env) as server:
        yield server


async def start(api: Api, **fields: Any) -> str:
    """Requests a summary; the path of the run."""
    answer = await api.post("/v1/generations", {"workflow": "doc_summ", "input": fields})
    assert answer.status_code == 202, answer.text
    path: str = answer.headers["Location"]
    return path


class Poller:
    """One of those who wait: a plain GET every two seconds, and nothing kept but the ETag."""

    def __init__(self) -> None:
        self.polls = 0
        self.seen: list[dict[str, Any]] = []

    async def run(self, http: httpx2.AsyncClient, path: str, first: float) -> None:
        """Until the job has ended. `first`: seconds before the first poll; people do not come all at once."""
        tag = ""
        await trio.sleep(first)
        while True:
            try:
                answer = await http.get(path, headers={"If-None-Match": tag} if tag else {})
            except httpx2.TransportError:
                await trio.sleep(EVERY / 4)
                continue
            self.polls += 1
            if answer.status_code == 200:
                tag = answer.headers["ETag"]
                self.seen.append(answer.json())
                if self.seen[-1]["status"] == "completed":
                    return
            else:
                assert answer.status_code in (304, 503), answer.text
            await trio.sleep(EVERY)


async def test_no_page_is_asked_twice_whoever_polls_and_whatever_is_killed(database: TestDatabase) -> None:
    """200 clients poll every 2 s, one in ten of them over a bad network, and the server is killed in the middle.

    The model is asked 48 times, as for nobody: 47 pages and the whole; and again for the page that was under way.
    """
    pollers = [Poller() for _ in range(POLLERS)]
    async with fake_upstream() as upstream, serving(database, upstream) as server:
        with cutting(server.port, seed=4) as proxy:
            async with Api.open(server.port) as api, Api.open(proxy.port) as cut, trio.open_nursery() as nursery:
                run = await start(api, model="openai/ok-3")
                for number, poller in enumerate(pollers):
                    http = cut.http if number % 10 == 0 else api.http
                    nursery.start_soon(poller.run, http, run, EVERY * number / POLLERS)
                with trio.fail_after(20):
                    while (progress := (await api.get(run))["progress"]) is None or progress["done"] < 12:
                        await trio.sleep(0.02)
                await server.kill()
                await server.start()
        async with Api.open(server.port) as api:
            log = await api.finished(run)
            # What each saw, through whatever cuts, is what the log says at that position.
            shown = {snapshot["position"]: snapshot for one in pollers[::10] for snapshot in one.seen}
            for position in sorted(shown)[:: max(1, len(shown) // 8)]:
                assert await api.get(run, at=position) == shown[position]
            last = await api.get(run)
        asked = Counter(record["body"]["messages"][-1]["content"] for record in await upstream.log())

    assert all(poller.seen[-1] == last for poller in pollers)
    assert sum(poller.polls for poller in pollers) > 2 * POLLERS
    assert any(snapshot["progress"] and 0 < snapshot["progress"]["done"] < PAGES for snapshot in shown.values())
    assert [page["page"] for page in last["result"]["pages"]] == [
        number for number in range(1, PAGES + len(EMPTY) + 1) if number not in EMPTY
    ]
    assert last["progress"] == {
        "done": PAGES,
        "total": PAGES,
        "unit": "pages",
        "stage": "summarising the whole",
    }

    kinds = [event["type"] for event in log]
    assert kinds.count("generation.started") == 2, "it was killed in the middle"
    before = kinds[: len(kinds) - kinds[::-1].index("generation.started")]
    done = before.count("step.finished")
    assert 12 <= done < PAGES
    assert len(asked) == PAGES + 1
    twice = [list(asked).index(text) for text, count in asked.items() if count > 1]
    assert twice in ([], [done]), f"{done} pages were done: only the next one may have been asked again"
    assert kinds.count("step.finished") == PAGES + 1


async def test_the_model_is_told_the_pages_and_what_was_said(database: TestDatabase) -> None:
    """A question brings the pages that have its words, and the talk before it."""
    async with fake_upstream() as upstream, serving(database, upstream) as server, Api.open(server.port) as api:
        conversation = await api.conversation()
        positions = []
        for question in ("When does the ferry to Solano sail?", "And on what days?"):
            positions.append((await api.message(conversation, question))["position"])
            body = {
                "workflow": "doc_ask",
                "input": {"model": "openai/echo-history", "question": positions[-1]},
                "if_running": "queue",
            }
            answer = await api.post(f"{conversation}/generations", body)
            assert (await api.finished(answer.headers["Location"]))[-1]["type"] == "generation.completed"
        first, second = [record["body"]["messages"] for record in await upstream.log()]
        assert [message["role"] for message in first] == ["system", "user"]
        assert "Page 32:\n30. The ferry." in first[0]["content"]
        assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
        assert second[1:2] == first[1:]

        body["input"] = {"question": 1}
        answer = await api.post(f"{conversation}/generations", body)
        assert (await api.finished(answer.headers["Location"]))[-1]["error"]["message"] == (
            "There is no message at position 1 of this conversation."
        )


async def press(page: Page, button: str, until: str) -> None:
    """As a person does: once more where the page says that nobody answers."""
    with trio.fail_after(60):
        while True:
            await page.do("click", button)
            await page.see(f"{until}:visible, #trouble:visible")
            if await page.do("is_hidden", "#trouble"):
                return


@needs_pages
async def test_its_page_shows_the_log_through_a_bad_network(server: Server, pages: str, tmp_path: Path) -> None:
    """A PDF is sent, polled and asked over connections that are cut at random, and somebody else looks on."""
    pdf = tmp_path / "handbook.pdf"
    pdf.write_bytes(write_handbook())
    with cutting(server.port, seed=12, mean_seconds=4) as proxy:
        ALLOWED.append(proxy.url)
        async with browsing() as browser, Api.open(server.port) as api:
            desktop, phone = browser.desktop, browser.phone
            await desktop.do("goto", f"{pages}/doc_summ/page.html?server={proxy.url}")
            await check_page(desktop)
            await desktop.do("set_input_files", "#start [name=document]", str(pdf))
            await desktop.do("fill", "#start [name=rate]", "0")
            await press(desktop, "#start button", "#question")
            await phone.do("goto", await desktop.do("evaluate", "location.href"))
            await desktop.do("fill", "#question [name=text]", "When does the ferry to Solano sail?")
            await press(desktop, "#question button", "#chat p:has-text('bicycles travel free')")
            await desktop.do("fill", "#question [name=text]", "How much is a night at the quay?")
            await press(desktop, "#question button", "#chat p:has-text('2 crowns')")
            for page in (desktop, phone):
                await page.see("#whole")
                await page.see("#chat p:has-text('2 crowns')")
            assert await desktop.text("main") == await phone.text("main")
            await check_page(desktop)

            conversation = str(await desktop.do("evaluate", "location.hash.slice(1)"))
            found = await api.get(f"/v1/conversations/{conversation}")
            job = await api.get(f"/v1/generations/{found['metadata']['job']}")
            assert job["input"]["document"] == hashlib.sha256(pdf.read_bytes()).hexdigest()
            assert await desktop.text("#name") == "HANDBOOK.PDF", "in capitals, as headings are"
            assert await desktop.text("#pages") in ("", "\n".join(job["text"].strip().splitlines()[:PAGES]))
            assert await desktop.text("#whole") == job["result"]["whole"]
            assert await desktop.text("#count") == "All 47 pages are summarised."
            said = await desktop.do(
                "evaluate", "[...document.querySelectorAll('#chat p')].map(p => p.textContent)"
            )
            assert sorted(said) == sorted(
                [message["content"] for message in found["messages"]]
                + [generation["text"] for generation in found["generations"]]
            )
            assert "The ferry to Solano sails at seven" in said[1] + said[2]
            assert proxy.cuts > 0

            another = (await api.conversation()).rpartition("/")[2]
            await phone.do("goto", f"{pages}/doc_summ/page.html?server={server.url}#{another}")
            await phone.see("#trouble:has-text('about no document')")
            assert await browser.hosts() == ["127.0.0.1"]
            assert await browser.complaints() == []


async def test_what_is_no_pdf_with_text_is_refused() -> None:
    """With what is wrong, and how to mend it."""
    handbook = write_handbook()
    read = await read_pages(handbook)
    assert [page.number for page in read] == [n for n in range(1, PAGES + len(EMPTY) + 1) if n not in EMPTY]
    assert all(fact in " ".join(page.text.split()) for page, (_, fact) in zip(read, TOPICS, strict=True))
    empty = re.sub(rb"/Contents \d+ 0 R", b"", handbook)
    for pdf, why in ((b"", "no PDF"), (b"%PDF-1.4\njunk", "no PDF"), (empty, "pages are pictures")):
        with pytest.raises(UnreadablePdf, match=why):
            await read_pages(pdf)


async def test_the_rules_find_what_a_page_says() -> None:
    """Of each page the fact, not the remarks that stand on many; and for a question the page that answers it."""
    texts = [page.text for page in await read_pages(write_handbook())]
    weights = weigh_words(texts)
    for text, (_, fact) in zip(texts, TOPICS, strict=True):
        assert best_sentences(text, weights, 1) == [fact]
    for question, title in (
        ("How much is a night at the quay?", "Fees"),
        ("May I bring my dog?", "Animals"),
        ("Where do I get fuel?", "Fuel"),
    ):
        place, _ = find_answers(question, texts, 4)[0]
        assert TOPICS[place][0] == title
    assert find_answers("Xylophone?", texts, 4) == []
