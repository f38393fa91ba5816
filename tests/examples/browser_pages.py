"""One Chromium with several pages, as people have them: a desktop and a phone, light and dark.

In a process of its own, for Playwright's event loop and the store driver's do not share a program.
`python -m tests.examples.browser_pages`: a JSON line [page, method, arguments, keywords] in, the result or the
error out.
"""

import atexit
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import trio

from tests.harness.browser import CHROMIUM, FLAGS
from tests.harness.servers import ROOT

PAGES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"},
}
WAIT_MS = 30_000
BROKEN_CONNECTION = re.compile(r"net::ERR_|^WebSocket connection to |blocked by CORS policy: .* header is present")
"""The browser's own words where a proxy cuts a connection, or a server is away: the page cannot keep them back.

Where an answer is cut in the middle of its head, the browser misses the header that would be the next.
"""


class Page:
    """One of them; the names of its methods are Playwright's."""

    def __init__(self, browser: "Browser", name: str) -> None:
        self._browser = browser
        self._name = name

    async def do(self, method: str, *arguments: object, **keywords: object) -> Any:
        """Any method of Playwright's page, with what it returns where that is JSON."""
        return await self._browser.do(self._name, method, *arguments, **keywords)

    async def see(self, selector: str) -> None:
        """Waits until there is such an element, and it can be seen."""
        await self.do("wait_for_selector", selector)

    async def text(self, selector: str) -> str:
        """What an element says."""
        text: str = await self.do("inner_text", selector)
        return text

    async def console_errors(self) -> list[str]:
        """What the pages of the test wrote to the console as errors, but for those of broken connections."""
        found: list[str] = await self._browser.do("", "console")
        return [text for text in found if not BROKEN_CONNECTION.search(text)]

    async def fits(self) -> bool:
        """Whether nothing stands out to the right."""
        wide: int = await self.do("evaluate", "document.documentElement.scrollWidth - innerWidth")
        return wide <= 0


class Browser:
    """`hosts` names every host that a page asked for something."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.desktop, self.phone = Page(self, "desktop"), Page(self, "phone")

    async def hosts(self) -> list[str]:
        """Each once."""
        found: list[str] = await self.do("", "hosts")
        return found

    async def complaints(self) -> list[str]:
        """Exceptions of the pages' scripts."""
        found: list[str] = await self.do("", "complaints")
        return found

    async def do(self, page: str, method: str, *arguments: object, **keywords: object) -> Any:
        """One call, answered."""
        line = json.dumps([page, method, arguments, keywords])
        answer = json.loads(await trio.to_thread.run_sync(self._ask, line))
        assert "error" not in answer, f"{page} {method} {arguments}: {answer['error']}"
        return answer["result"]

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline() or '{"error": "the browser is gone"}'


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """New pages, without what earlier ones stored, for as long as the context. The browser itself stays."""
    browser = Browser(_running())
    await browser.do("", "open")
    try:
        yield browser
    finally:
        with trio.CancelScope(shield=True):
            await browser.do("", "close")


_process: "subprocess.Popen[str] | None" = None


def _running() -> "subprocess.Popen[str]":
    """The browser's process; one for all tests that run in this process, for its start is most of its cost."""
    global _process
    if _process is None or _process.poll() is not None:
        _process = subprocess.Popen(
            [sys.executable, "-m", "tests.examples.browser_pages"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        atexit.register(_end, _process)
    return _process


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()
    process.stdout.close()


class _Pages:
    """The pages of one test, in the browser's process; what they asked for and complained of."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._pages: dict[str, Any] = {}
        self._told: dict[str, list[str]] = {}

    def open(self) -> None:
        """Each page in a context of its own."""
        told = self._told = {"hosts": [], "complaints": [], "console": []}
        for name, options in PAGES.items():
            page = self._pages[name] = self._browser.new_context(**options).new_page()
            page.set_default_timeout(WAIT_MS)
            page.on("request", lambda request: told["hosts"].append(urlsplit(request.url).hostname or ""))
            page.on("console", lambda said: told["console"].extend([said.text] * (said.type == "error")))
            page.on("pageerror", lambda error: told["complaints"].append(str(error)))

    def close(self) -> None:
        """Forgets them."""
        while self._pages:
            self._pages.popitem()[1].context.close()

    def do(self, name: str, method: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """One call, of a page's method or, without a page, one of these here."""
        if name:
            return getattr(self._pages[name], method)(*arguments, **keywords)
        if method in self._told:
            return sorted(set(self._told[method]))
        return {"open": self.open, "close": self.close}[method]()


def _main() -> None:
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        pages = _Pages(browser)
        for line in sys.stdin:
            try:
                result = pages.do(*json.loads(line))
                answer = {"result": result if isinstance(result, str | int | bool | list | dict) else None}
            except Error as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)  # noqa: T201  # the protocol
        browser.close()


if __name__ == "__main__":
    _main()
