"""The operator's page and the audit in a real browser: one person and two decide, through cuts and a kill."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.api import Api
from tests.examples.conftest import ALLOWED
from tests.examples.cutting_proxy import cutting
from tests.examples.page_checks import check_page, needs_pages
from tests.harness.api_keys import make_key
from tests.harness.browser import Browser, Page, browsing
from tests.harness.databases import TestDatabase
from tests.harness.proxy import cuttable
from tests.harness.servers import Server, running

pytestmark = needs_pages

BOT = {"TOKENTAPE_WORKFLOWS": "examples.service_bot.app", "SERVICE_BOT_RATE": "100"}
DONE = "text=The agent is done."
WAITS = ".card.waits"


@pytest.fixture
async def server(database: TestDatabase, pages: str, shop: Path) -> AsyncIterator[Server]:
    """The bot, with a model that is not slowed down for people."""
    env = BOT | {"TOKENTAPE_ALLOWED_ORIGINS": pages, "SERVICE_BOT_SHOP": str(shop)}
    async with running(database.app_url, env) as server:
        ALLOWED.append(server.url)
        yield server
        ALLOWED.clear()


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
        await desktop.see(f"{WAITS} >> text=close_ticket")
        await desktop.do("reload")
        await desktop.see(f"{WAITS} >> text=close_ticket")
        await phone.see(f"{WAITS} >> text=close_ticket")
        assert await desktop.text("#feed") == await phone.text("#feed")
        await desktop.do("fill", f"{WAITS} .reason", "Ask first")
        await desktop.do("press", f"{WAITS} .reason", "Enter")
        await desktop.do("fill", "#note [name=content]", "She is a regular.")
        await desktop.do("press", "#note [name=content]", "Enter")
        await phone.see("text=She is a regular.")
        await desktop.do("click", f"{WAITS} [value=rejected]")

        # The agent heard the note, and asks once more. By keyboard alone: to the call that waits, and yes.
        await phone.see(f"{WAITS}:has-text('packed the next one better')")
        await check_page(phone)
        await phone.do("press", "#waiting", "Enter")
        assert await phone.do("evaluate", "document.activeElement.value") == "approved"
        await phone.do("press", f"{WAITS} :focus", "Enter")

        await desktop.see(DONE)
        await phone.see(DONE)
        assert await desktop.text("#feed") == await phone.text("#feed")
        assert await browser.hosts() == ["127.0.0.1"]
        assert await browser.complaints() == []

        calls = (found := await api.get(run))["tool_calls"]
        assert [call["decision"] for call in calls] == [None, None, "modified", "rejected", "approved"]
        assert calls[2]["arguments"] == changed
        assert calls[2]["arguments_digest"] != calls[2]["proposed_digest"]
        assert calls[3]["reason"] == "Ask first"
        assert found["result"] == {"refunded": 3000, "closed": True, "notes": 1}
        order = _order(shop)
        assert (order["refunded"], len(order["messages"]), order["closed"]) == (3000, 1, True)

        # The audit says of each call what the log says.
        await desktop.do("click", "#audit")
        await desktop.see("#state[data-state=done]")
        assert await _audited(desktop) == [
            {
                "id": call["call"],
                "what": None if call["decision"] == "rejected" else "ran",
                "digests": [call["proposed_digest"]]
                + [call["arguments_digest"]] * {"modified": 2, "rejected": 0}.get(call["decision"], 1),
                "by": [call["by"]] if call["decision"] else [],
            }
            for call in calls
        ]
        await check_page(desktop)


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
        await page.see(f"{WAITS} >> text=close_ticket")
        await page.do("click", f"{WAITS} [value=approved]")
        await page.see(DONE)

        events = await api.finished(run)
        kinds = [event["type"] for event in events]
        assert kinds.count("tool.decided") == 2
        assert kinds.count("generation.started") == 2
        assert "another server goes on (attempt 2)." in (await page.text("#feed")).lower()
        order = _order(shop)
        assert order["refunded"] == 5400, "the refund was made once"
        assert len(order["messages"]) == 1
        await _shows_the_log(page, browser, run, api)


@pytest.mark.parametrize("seed", [7])
async def test_through_random_cuts(server: Server, pages: str, shop: Path, seed: int) -> None:
    """What the page shows is the log, and each click acted once."""
    async with browsing() as browser, Api.open(server.port) as api:
        page = browser.desktop
        with cutting(server.port, seed) as network:
            ALLOWED.append(network.url)
            run = await _ticket(page, f"{pages}/service_bot/page.html?server={network.url}", api)
            for name in ("refund", "close_ticket"):
                await page.see(f"{WAITS} >> text={name}")
                await page.do("click", f"{WAITS} [value=approved]")
            await page.see(DONE)
            assert network.cuts >= 2
        kinds = [event["type"] for event in await api.finished(run)]
        assert kinds.count("tool.decided") == 2
        order = _order(shop)
        assert (order["refunded"], len(order["messages"])) == (5400, 1)
        shown = await page.text("#feed")
        await page.do("goto", (await page.do("evaluate", "location.href")).replace(network.url, server.url))
        await page.see(DONE)
        assert await page.text("#feed") == shown
        await _shows_the_log(page, browser, run, api)


async def test_two_people_approve(database: TestDatabase, pages: str, shop: Path) -> None:
    """Each with a key of their own. Who modifies approves as the first; the other one sees the new arguments."""
    keys = [await make_key(database, "read,write,decide") for _ in range(2)]
    env = BOT | {"TOKENTAPE_ALLOWED_ORIGINS": pages, "SERVICE_BOT_SHOP": str(shop), "SERVICE_BOT_APPROVERS": "2"}
    async with running(database.app_url, env) as server, browsing() as browser, Api.open(server.port) as api:
        ALLOWED.append(server.url)
        desktop, phone = browser.desktop, browser.phone
        api.http.headers["Authorization"] = f"Bearer {keys[0].text}"
        address = f"{pages}/service_bot/page.html?server={server.url}"
        for page, key in ((desktop, keys[0]), (phone, keys[1])):
            await page.do("goto", address)
            await page.do("fill", "#session input", key.text)
            await page.do("click", "#session button")
            await page.see("#session .soft")
        run = await _ticket(desktop, address, api)
        await phone.do("goto", await desktop.do("evaluate", "location.href"))
        await phone.see(f"{WAITS} >> text=2 people have to approve it")
        await desktop.see(WAITS)
        await desktop.do("click", f"{WAITS} [value=approved]")
        await phone.see(f"{WAITS} >> text=approved by {keys[0].id}; 1 more to approve")
        await phone.do("fill", f"{WAITS} .edit", '{"order": "1017", "cents": 2600, "reason": "A dent"}')
        await phone.do("click", f"{WAITS} [value=modified]")
        await desktop.see(f"{WAITS} >> text=approved by {keys[1].id}; 1 more to approve")
        assert '"cents": 2600' in await desktop.do("input_value", f"{WAITS} .edit")
        await desktop.do("click", f"{WAITS} [value=approved]")
        await phone.see(f"text=modified by {keys[1].id}, {keys[0].id}")
        await phone.see(f"{WAITS} >> text=close_ticket")
        await phone.do("click", f"{WAITS} [value=approved]")
        await desktop.see(DONE)
        assert _order(shop)["refunded"] == 3100
        call = (await api.get(run))["tool_calls"][2]

        await phone.do("click", "#audit")
        await phone.see("#state[data-state=done]")
        told = (await _audited(phone))[2]
        assert told["by"] == [keys[0].id, keys[1].id, keys[0].id]
        assert told["digests"] == [told["digests"][0], *[call["arguments_digest"]] * 2]
        assert told["digests"][0] != call["arguments_digest"]
        assert await phone.fits()
        assert await browser.complaints() == []
        ALLOWED.clear()


AUDITED = """
[...document.querySelectorAll('#calls > li')].map((card) => ({
    id: card.id,
    what: ['ran', 'error'].find((one) => [...card.querySelectorAll('dt')].some((dt) => dt.textContent === one)),
    digests: [...card.querySelectorAll('.digest')].map((one) => one.textContent.replace('SHA-256 ', '')),
    by: [...card.querySelectorAll('dd > b')].map((one) => one.textContent),
}))
"""


async def _audited(page: Page) -> list[dict[str, Any]]:
    """What the audit shows of each call."""
    told: list[dict[str, Any]] = await page.do("evaluate", AUDITED)
    return told


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
