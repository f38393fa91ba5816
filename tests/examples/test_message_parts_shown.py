"""Messages of parts on the examples' pages: every page that shows messages names the files, and runs nothing."""

from typing import Any

import pytest

from tests.clients.api import Api
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, browsing
from tests.harness.servers import Server

PAGES = (
    "smart_exam/page.html",
    "biz_chat/page.html",
    "biz_chat/team.html",
    "doc_summ/page.html",
    "service_bot/page.html",
)
NAME = "<img src=x onerror=document.title='run'>.txt"
SAID = "<b onclick=1>What is this?</b>"


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize("deliver", [{}, {"deliver": "now"}], ids=["posted", "into an answer"])
async def test_a_message_of_parts(server: Server, pages: str, deliver: dict[str, Any]) -> None:
    async with browsing() as browser, Api.open(server.port) as api:
        job = (await api.post("/v1/generations", {"model": "demo", "parameters": {"rate": 0}})).json()["id"]
        upload = await api.http.post("/v1/files", content=b"A text.", headers={"Content-Type": "text/plain"})
        path = await api.conversation(title="Parts", metadata={"job": job})
        file = {"type": "file", "file": upload.json()["digest"], "name": NAME}
        parts = [{"type": "text", "text": SAID}, file]
        async with api.busy(path):
            message = {"role": "user", "content": parts, **deliver}
            assert (await api.post(f"{path}/messages", message)).status_code == 201
        page = browser.desktop
        for shown in PAGES:
            # Another page first: what differs by its # alone is not loaded again.
            await page.do("goto", f"{pages}/index.html?server={server.url}")
            await page.do("goto", f"{pages}/{shown}?server={server.url}#{path.rpartition('/')[2]}")
            await page.do("wait_for_function", "(text) => document.body.innerText.includes(text)", arg=SAID)
            text = await page.do("evaluate", "document.body.innerText")
            assert f"[file {NAME} text/plain]" in text, shown
            assert "[object" not in text, shown
            assert await page.do("title") != "run", shown
