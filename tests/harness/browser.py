"""Debian's Chromium, driven by Playwright in its own process, or the reason why there is none.

Playwright's event loop and that of the store's driver cannot share a process. `python -m
tests.harness.browser URL` opens the page and evaluates: a JSON line [script, value] in, the result as a JSON
line out.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "Debian's package chromium is not installed (tools/test-needs installs it as root)"
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


class Tab:
    """A page in a browser."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    async def evaluate(self, script: str, value: object = None) -> Any:
        """What JavaScript says: an expression, or a function of `value`. Promises are waited for."""
        return await trio.to_thread.run_sync(self._evaluate, script, value)

    def _evaluate(self, script: str, value: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([script, value]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the browser is gone")
        return json.loads(line)

    async def until(self, script: str, seconds: float = 40) -> None:
        """Waits until an expression is true."""
        with trio.fail_after(seconds):
            while not await self.evaluate(script):
                await trio.sleep(0.05)


@asynccontextmanager
async def open_tab(url: str, *flags: str) -> AsyncIterator[Tab]:
    """A new browser with one page at an address; `flags` are Chromium's."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.browser", url, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield Tab(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with trio.CancelScope(shield=True), trio.move_on_after(10):
            await trio.to_thread.run_sync(process.wait)
        process.kill()
        process.stdout.close()


def _main(url: str, *more: str) -> None:
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *more, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.goto(url)
        for line in sys.stdin:
            script, value = json.loads(line)
            print(json.dumps(page.evaluate(script, value)), flush=True)  # noqa: T201  # the protocol
        browser.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
