"""`python -m tests.openapi.looking URL`: what Chromium sees on the page there, as one line of JSON.

A process of its own, as in the harness: Playwright's event loop and trio do not share a program. It loads the page
wide and light, then narrow and dark as on a phone, and presses a Copy button.
"""

import json
import os
import sys
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.harness.browser import CHROMIUM, FLAGS

VIEWS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
SEEN = """() => ({
    operations: [...document.querySelectorAll('article.operation')]
        .filter(one => one.getBoundingClientRect().height > 50).map(one => one.id),
    schemas: [...document.querySelectorAll('article.schema')].map(one => one.id),
    examples: document.querySelectorAll('article.operation figure').length,
    dead: [...document.querySelectorAll('a[href^="#"]')]
        .filter(one => !document.getElementById(one.hash.slice(1))).map(one => one.hash),
    overflow: document.documentElement.scrollWidth - innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
    first: document.querySelector('#begin pre code').textContent,
})"""


def look(browser: Browser, url: str, view: dict[str, Any]) -> dict[str, Any]:
    """Everything about one view of the page."""
    context = browser.new_context(**view, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url, wait_until="networkidle")
    seen: dict[str, Any] = page.evaluate(SEEN)
    example = page.locator("article.operation figure").first
    example.locator("button").click()
    example.locator("button", has_text="Copied").wait_for()
    seen["copied"] = page.evaluate("navigator.clipboard.readText()")
    seen["example"] = example.locator("code").inner_text()
    context.close()
    return {**seen, "requests": requests, "complaints": complaints}


if __name__ == "__main__":
    with sync_playwright() as playwright:
        flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        print(json.dumps({name: look(chromium, sys.argv[1], view) for name, view in VIEWS.items()}))  # noqa: T201
        chromium.close()
