"""`python -m tests.openapi.chromium URL`: what Chromium sees on the page there, as one line of JSON.

A process of its own, as in the harness: Playwright's event loop and trio do not share a program. It loads the page
wide and light, then narrow and dark as on a phone. On `/docs` it presses a Copy button. On `/` it starts an
answer, cuts the connection and reconnects.
"""

import json
import os
import sys
import time
from typing import Any

from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.harness.browser import CHROMIUM, FLAGS

VIEWS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
RATE = 45
"""Tokens a second that the demo is given in place of its 15: an answer in five seconds, still enough to cut it."""
SEEN = """() => ({
    dead: [...document.querySelectorAll('a[href^="#"]')]
        .filter(one => !document.getElementById(one.hash.slice(1))).map(one => one.hash),
    overflow: document.documentElement.scrollWidth - innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
})"""
DOCS = """() => ({
    operations: [...document.querySelectorAll('article.operation')]
        .filter(one => one.getBoundingClientRect().height > 50).map(one => one.id),
    schemas: [...document.querySelectorAll('article.schema')].map(one => one.id),
    examples: document.querySelectorAll('article.operation figure').length,
    first: document.querySelector('#begin pre code').textContent,
})"""


def look(browser: Browser, url: str, view: dict[str, Any]) -> dict[str, Any]:
    """Everything about one view of the page."""
    context = browser.new_context(**view, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.route("**/v1/generations", hurry)
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url, wait_until="networkidle")
    act = docs if url.endswith("/docs") else demo
    seen: dict[str, Any] = {**act(page), **page.evaluate(SEEN)}
    context.close()
    return {**seen, "requests": requests, "complaints": complaints}


def hurry(route: Route) -> None:
    """Sends the demo's question on, and asks for a quicker answer."""
    asked = json.loads(route.request.post_data or "")
    asked["parameters"]["rate"] = RATE
    route.continue_(post_data=json.dumps(asked))


def docs(page: Page) -> dict[str, Any]:
    """What `/docs` shows, and what its first Copy button copies."""
    seen: dict[str, Any] = page.evaluate(DOCS)
    example = page.locator("article.operation figure").first
    example.locator("button").click()
    example.locator("button", has_text="Copied").wait_for()
    seen["copied"] = page.evaluate("navigator.clipboard.readText()")
    seen["example"] = example.locator("code").inner_text()
    return seen


def demo(page: Page) -> dict[str, Any]:
    """What the demo of `/` says after a cut and a reconnect. Enter is enough: the focus moves along."""
    page.locator("#start").focus()
    page.keyboard.press("Enter")
    _until(page, "run !== null && run.last >= 20")
    page.keyboard.press("Enter")  # Cut the connection
    _until(page, "run.head >= run.last + 10")
    cut = page.evaluate("run.received.length")
    missing = page.locator("#cells .missing").count()
    page.keyboard.press("Enter")  # Reconnect
    page.locator("#verdict").wait_for()
    return {
        "cut": cut,
        "missing": missing,
        "received": page.evaluate("run.received"),
        "events": page.evaluate("run.eventsPath"),
        "shown": page.locator("#answer").inner_text(),
        "late": page.locator("#answer mark").inner_text(),
        "cells": page.locator("#cells .cell").count(),
        "lines": page.locator("#connections li").all_inner_texts(),
        "verdict": page.locator("#verdict").inner_text(),
        "status": page.get_by_role("status").inner_text(),
        "focused": page.evaluate("document.activeElement.id"),
    }


def _until(page: Page, expression: str) -> None:
    """Playwright's own wait needs `eval`, which the page's policy forbids."""
    late = time.monotonic() + 40
    while not page.evaluate(expression):
        if time.monotonic() > late:
            raise TimeoutError(expression)
        time.sleep(0.05)


if __name__ == "__main__":
    with sync_playwright() as playwright:
        flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        print(json.dumps({name: look(chromium, sys.argv[1], view) for name, view in VIEWS.items()}))  # noqa: T201
        chromium.close()
