"""The operator's page in a real browser: decisions, a second operator, a reload, a cut, a killed server."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.api import Api
from tests.examples.browser_pages import Browser, Page, browsing
from tests.examples.conftest import ALLOWED
from tests.harness.browser import CHROMIUM, NO_CHROMIUM
from tests.harness.proxy import cuttable
from tests.harness.servers import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

DONE = "text=The agent is done."
WAITS = ".card.waits"


async def test_two_operators_modify_reject_and_approve(server: Server, pages: str, shop: Path) -> None:
    """One on a desktop, one on a phone; a reload in the middle; and in the end the world is as they decided."""
    async with browsing() as browser, Api.open(server.port) as api:
        desktop, phone = browser.desktop, browser.phone
        run = await _ticket(desktop, f"{pages}/service_bot/page.html?server={server.url}", api)
        await phone.do("goto", await desktop.do("evaluate", "location.href"))

        # The big refund waits; looking up and the small refund asked nobody.
        await phone.see(WAITS)
        assert [call["status"] for call in (await api.get(run))["tool_calls"]] == [
            "finished",
            "finished",
            "proposed",
        ]
        changed = {"order": "1017", "cents": 2500, "reason": "A dent is not a hole " + "x" * 200}
        await phone.do("fill", f"{WAITS} .edit", "{")
        await phone.do("click", f"{WAITS} [value=modified]")
        await phone.see(f"{WAITS} .trouble")
        await phone.do("fill", f"{WAITS} .edit", json.dumps(changed))
        assert await phone.do("is_disabled", f"{WAITS} [value=approved]")
        await phone.do("click", f"{WAITS} [value=modified]")

        # Enter in the reason's field decides nothing: what follows is a rejection, and there is no second one.
        await desktop.see(f"{WAITS} >> text=send_message")
        await desktop.do("reload")
        await desktop.see(f"{WAITS} >> text=send_message")
        await phone.see(f"{WAITS} >> text=send_message")
        assert await desktop.text("#feed") == await phone.text("#feed")
        await desktop.do("fill", f"{WAITS} .reason", "Ask first")
        await desktop.do("press", f"{WAITS} .reason", "Enter")
        await desktop.do("fill", "#note [name=content]", "She is a regular.")
        await desktop.do("press", "#note [name=content]", "Enter")
        await phone.see("text=She is a regular.")
        await desktop.do("click", f"{WAITS} [value=rejected]")

        # By keyboard alone: to the call that waits, and yes.
        await phone.see(f"{WAITS} >> text=close_ticket")
        await phone.do("press", "#waiting", "Enter")
        assert await phone.do("evaluate", "document.activeElement.value") == "approved"
        await phone.do("press", f"{WAITS} :focus", "Enter")

        await desktop.see(DONE)
        await phone.see(DONE)
        assert await desktop.text("#feed") == await phone.text("#feed")
        assert await desktop.fits()
        assert await phone.fits()
        assert await browser.hosts() == ["127.0.0.1"]
        assert await browser.complaints() == []

        calls = (found := await api.get(run))["tool_calls"]
        assert [call["decision"] for call in calls] == [None, None, "modified", "rejected", "approved"]
        assert calls[2]["arguments"] == changed
        assert calls[2]["arguments_digest"] != calls[2]["proposed_digest"]
        assert calls[3]["reason"] == "Ask first"
        assert found["result"] == {"refunded": 3000, "closed": True, "notes": 1}
        order = _order(shop)
        assert (order["refunded"], order["messages"], order["closed"]) == (3000, [], True)


async def test_a_decision_through_a_cut_and_a_killed_server(server: Server, pages: str, shop: Path) -> None:
    """Clicked while there is no network, it arrives when there is one, once; the answer outlives the server."""
    async with browsing() as browser, cuttable(server.port) as proxy, Api.open(server.port) as api:
        page = browser.desktop
        ALLOWED.append(f"http://127.0.0.1:{proxy.port}")
        run = await _ticket(page, f"{pages}/service_bot/page.html?server=http://127.0.0.1:{proxy.port}", api)
        await page.see(WAITS)
        proxy.down = True
        proxy.cut()
        await page.see("#state[data-state=away]")
        await page.do("click", f"{WAITS} [value=approved]")
        await server.kill()
        await server.start()
        proxy.down = False
        for name in ("send_message", "close_ticket"):
            await page.see(f"{WAITS} >> text={name}")
            await page.do("click", f"{WAITS} [value=approved]")
        await page.see(DONE)

        events = await api.finished(run)
        kinds = [event["type"] for event in events]
        assert kinds.count("tool.decided") == 3
        assert kinds.count("generation.started") == 2
        assert "another server goes on (attempt 2)." in (await page.text("#feed")).lower()
        order = _order(shop)
        assert order["refunded"] == 5400, "the refund was made once"
        assert len(order["messages"]) == 1
        await _shows_the_log(page, browser, run, api)


def _order(shop: Path) -> dict[str, Any]:
    order: dict[str, Any] = json.loads(shop.read_text())["orders"]["1017"]
    return order


async def _ticket(page: Page, url: str, api: Api) -> str:
    """Fills the form; the path of the run."""
    await page.do("goto", url)
    await page.do("click", "#ticket button")
    await page.do("wait_for_url", "**#conv_*")
    conversation = str(await page.do("evaluate", "location.hash.slice(1)"))
    run: dict[str, Any] = (await api.get(f"/v1/conversations/{conversation}"))["generations"][0]
    return f"/v1/generations/{run['id']}"


async def _shows_the_log(page: Page, browser: Browser, run: str, api: Api) -> None:
    """What was read in pieces looks as what is read in one go, and has the answer's whole text."""
    before = await page.text("#feed")
    await page.do("reload")
    await page.see(DONE)
    assert await page.text("#feed") == before
    said = await page.do("evaluate", "[...document.querySelectorAll('.says')].map(p => p.textContent).join('')")
    assert said == (await api.get(run))["text"]
    paragraphs = await page.do(
        "evaluate", "[...document.querySelectorAll('.says')].map(p => p.textContent.trim())"
    )
    assert len(set(paragraphs)) == len(paragraphs) > 3, "no sentence stands there twice, and turns are paragraphs"
    assert await browser.complaints() == []
