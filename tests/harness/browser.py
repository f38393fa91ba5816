"""Debian's Chromium with pages as people have them: a desktop and a phone, light and dark, or just a tab.

Playwright's event loop and that of the store's driver cannot share a process, so the browser has one of its own:
`python -m tests.harness.browser`. A line there is one call, [session, page, method, arguments, keywords] as JSON;
the line that comes back has its result or its error. All tests that run in one process share a browser, for its
start costs more than most of them; each has pages of its own, without what earlier ones stored.
"""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "Debian's package chromium is not installed (tools/test-needs installs it as root)"
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PAGES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"},
    "tab": {},
    "trusting tab": {"ignore_https_errors": True},
}
WAIT_MS = 30_000
BROKEN_CONNECTION = re.compile(r"net::ERR_|^WebSocket connection to |blocked by CORS policy: .* header is present")
"""The browser's own words where a proxy cuts a connection, or a server is away: the page cannot keep them back.

Where an answer is cut in the middle of its head, the browser misses the header that would be the next.
"""


class Page:
    """One of `PAGES`, made when a test first uses it. The names of its methods are Playwright's."""

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


class Tab:
    """A page that a test speaks to in JavaScript."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def evaluate(self, script: str, value: object = None) -> Any:
        """What JavaScript says: an expression, or a function of `value`. Promises are waited for."""
        return await self._page.do("evaluate", script, value)

    async def until(self, script: str, seconds: float = 40) -> None:
        """Waits until an expression is true."""
        with trio.fail_after(seconds):
            while not await self.evaluate(script):
                await trio.sleep(0.05)


class Browser:
    """What one test does with the browser."""

    _numbers = count(1)

    def __init__(self) -> None:
        self._session = str(next(self._numbers))
        self.desktop, self.phone = Page(self, "desktop"), Page(self, "phone")

    async def hosts(self) -> list[str]:
        """Every host that a page asked for something, once."""
        found: list[str] = await self.do("", "hosts")
        return found

    async def complaints(self) -> list[str]:
        """Exceptions of the pages' scripts."""
        found: list[str] = await self.do("", "complaints")
        return found

    async def do(self, page: str, method: str, *arguments: object, **keywords: object) -> Any:
        """One call, answered."""
        line = json.dumps([self._session, page, method, arguments, keywords])
        answer = json.loads(await trio.to_thread.run_sync(_ask, line))
        assert "error" not in answer, f"{page} {method} {arguments}: {answer['error']}"
        return answer["result"]


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """New pages, for as long as the context."""
    browser = Browser()
    try:
        yield browser
    finally:
        with trio.CancelScope(shield=True):
            await browser.do("", "close")


@asynccontextmanager
async def open_tab(url: str, *, trusting: bool = False) -> AsyncIterator[Tab]:
    """One page at an address. A `trusting` one takes any certificate."""
    async with browsing() as browser:
        page = Page(browser, "trusting tab" if trusting else "tab")
        await page.do("goto", url)
        yield Tab(page)


_process: "subprocess.Popen[str] | None" = None
_one_call = threading.Lock()


def _ask(line: str) -> str:
    """One call to the browser's process, which is started with the first."""
    with _one_call:
        return _answer(line)


def _answer(line: str) -> str:
    global _process
    if _process is None or _process.poll() is not None:
        _process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.browser"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        atexit.register(_end, _process)
    assert _process.stdin is not None
    assert _process.stdout is not None
    _process.stdin.write(line + "\n")
    _process.stdin.flush()
    return _process.stdout.readline() or '{"error": "the browser is gone"}'


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()
    process.stdout.close()


class _Session:
    """The pages of one test, in the browser's process; what they asked for and complained of."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._pages: dict[str, Any] = {}
        self._told: dict[str, list[str]] = {"hosts": [], "complaints": [], "console": []}

    def do(self, name: str, method: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """One call, of a page's method or, without a page, of what the pages have told; "close" closes them."""
        if name:
            return getattr(self._page(name), method)(*arguments, **keywords)
        if method == "close":
            for page in self._pages.values():
                page.context.close()
            return None
        return sorted(set(self._told[method]))

    def _page(self, name: str) -> Any:
        if name not in self._pages:
            page = self._pages[name] = self._browser.new_context(**PAGES[name]).new_page()
            page.set_default_timeout(WAIT_MS)
            told = self._told
            page.on("request", lambda request: told["hosts"].append(urlsplit(request.url).hostname or ""))
            page.on("console", lambda said: told["console"].extend([said.text] * (said.type == "error")))
            page.on("pageerror", lambda error: told["complaints"].append(str(error)))
        return self._pages[name]


def _main() -> None:
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        sessions: defaultdict[str, _Session] = defaultdict(lambda: _Session(browser))
        for line in sys.stdin:
            session, page, method, arguments, keywords = json.loads(line)
            try:
                result = sessions[session].do(page, method, arguments, keywords)
                answer = {"result": result if isinstance(result, str | int | float | bool | list | dict) else None}
            except Error as error:
                answer = {"error": str(error)}
            if (page, method) == ("", "close"):
                del sessions[session]
            print(json.dumps(answer), flush=True)  # noqa: T201  # the protocol
        browser.close()


if __name__ == "__main__":
    _main()
