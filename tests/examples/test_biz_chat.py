"""The sales coach in a real browser: one person, and two who tell it things while it answers; a bad network."""

from typing import Any

from examples.biz_chat.battle_cards import CARDS
from tests.clients.api import Api
from tests.examples.conftest import ALLOWED
from tests.examples.cutting_proxy import cutting
from tests.examples.page_checks import check_page, needs_pages
from tests.harness.browser import Page, browsing
from tests.harness.servers import Server

FEED = "[...document.querySelectorAll('#feed .said > p')].map((p) => p.textContent)"
ANSWERS = "[...document.querySelectorAll('.coach')]"
MARKED = """
[...document.querySelectorAll('mark')].map((mark) => {
  const before = [...mark.parentNode.childNodes].slice(0, [...mark.parentNode.childNodes].indexOf(mark));
  return before.filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join("").slice(-20);
})
"""
"""What stands before each mark in the answer."""
NAMES = {"desktop": "Ada", "phone": "Ben"}
"""Who is on the call."""
HEARD = "They say their boss decides on Monday."
TOLD = "Twelve people would use it."


async def conversation(api: Api, page: Page) -> dict[str, Any]:
    """The conversation that the page shows."""
    name = await page.do("evaluate", "location.hash.slice(1)")
    found: dict[str, Any] = await api.get(f"/v1/conversations/{name}")
    return found


async def answered(page: Page, count: int) -> None:
    await page.do("wait_for_function", f"document.querySelectorAll('.coach:not(.writing)').length === {count}")


@needs_pages
async def test_a_call_alone_over_a_network_that_breaks(server: Server, pages: str) -> None:
    """The card is looked up once, each answer is whole, and the page shows what the log has; opened again, too."""
    async with browsing() as browser, Api.open(server.port) as api:
        with cutting(server.port, seed=7) as proxy:
            ALLOWED.append(proxy.url)
            page = browser.desktop
            await page.do("goto", f"{pages}/biz_chat/page.html?server={proxy.url}")
            await check_page(page)
            await page.do("select_option", "[name=situation]", "silence")
            await page.do("fill", "#call [name=rate]", "30")
            await page.do("click", "#call .main")
            await page.see("#stop")
            assert await page.do("is_disabled", "#more .main")
            await page.do("reload")
            await answered(page, 1)
            assert proxy.cuts >= 2
            address = await page.do("evaluate", "location.href")
        await page.do("goto", f"{pages}/")
        await page.do("goto", address.replace(proxy.url, server.url))
        await answered(page, 1)
        await page.do("fill", "#more input", "And in one line?")
        await page.do("press", "#more input", "Enter")
        await answered(page, 2)
        shown: list[str] = await page.do("evaluate", FEED)
        await check_page(page)
        assert await browser.complaints() == []
        found = await conversation(api, page)
        assert [one["role"] for one in found["messages"]] == ["system", "user", "user"]
        asked = [one["content"] for one in found["messages"][1:]]
        said = [one["text"] for one in found["generations"]]
        assert shown == [asked[0], said[0], asked[1], said[1]]
        assert "No third reminder." in said[0]
        assert await page.text(".card summary") == f"Battle card: {CARDS['silence'].objection}"
        events = await api.finished(f"/v1/generations/{found['generations'][0]['id']}")
        assert sum(event["type"] == "tool.finished" for event in events) == 1


async def call_together(pages: str, url: str, desktop: Page, phone: Page) -> None:
    """Ada asks on the desktop, Ben joins on the phone; the answer has begun."""
    await desktop.do("goto", f"{pages}/biz_chat/team.html?server={url}")
    await desktop.do("fill", "#call [name=author]", NAMES["desktop"])
    await desktop.do("fill", "#call [name=rate]", "20")
    await desktop.do("click", "#call .main")
    await desktop.do("wait_for_url", "**#conv_*")
    await phone.do("goto", await desktop.do("evaluate", "location.href"))
    await phone.do("fill", "#note [name=author]", NAMES["phone"])
    await phone.do("press", "#note [name=author]", "Tab")
    await desktop.see(f"text=Also here: {NAMES['phone']}")
    await phone.do("wait_for_function", f"{ANSWERS}[0]?.textContent.length > 80")


async def tell(page: Page, text: str) -> None:
    await page.do("fill", "#note [name=content]", text)
    await page.do("click", "#note [value=tell]")


@needs_pages
async def test_two_people_tell_the_coach_while_it_answers(server: Server, pages: str) -> None:
    """Each once, though the network breaks; both pages show the same, and the answer goes on with it."""
    async with browsing() as browser, Api.open(server.port) as api:
        with cutting(server.port, seed=2) as proxy:
            ALLOWED.append(proxy.url)
            desktop, phone = browser.desktop, browser.phone
            await call_together(pages, proxy.url, desktop, phone)
            await tell(phone, HEARD)
            await desktop.see(f"mark:has-text('{HEARD}')")
            await check_page(phone)
            await tell(desktop, TOLD)
            for page in (desktop, phone):
                await answered(page, 1)
                assert await page.do(
                    "evaluate", "[...document.querySelectorAll('.status')].map((one) => one.dataset.status)"
                ) == [
                    "applied",
                    "applied",
                ]
            assert await desktop.do("evaluate", FEED) == await phone.do("evaluate", FEED)
            assert await desktop.text("#note .main") == "Ask"
            # Asked in the end by both, one after the other: the answers know what was said.
            await phone.do("fill", "#note [name=content]", "What do I write to the boss?")
            await phone.do("press", "#note [name=content]", "Enter")
            for page in (desktop, phone):
                await answered(page, 2)
        assert await browser.complaints() == []
        assert await browser.hosts() == ["127.0.0.1"]

        found = await conversation(api, desktop)
        spoken = {message["content"]: message for message in found["messages"][1:]}
        assert len(spoken) == len(found["messages"]) - 1 == 4
        assert [one["author"] for one in found["messages"][1:]].count(NAMES["desktop"]) == 2
        assert (spoken[HEARD]["author"], spoken[TOLD]["author"]) == (NAMES["phone"], NAMES["desktop"])
        first, second = found["generations"]
        for told in (HEARD, TOLD):
            assert (spoken[told]["delivery"], spoken[told]["into"]) == ("applied", first["id"])
            assert first["text"].count(f"(Noted: “{told}”)") == 1
        assert "Do not answer the number yet." in first["text"]
        assert "Leave Friday alone." in first["text"], "it went on to the end"
        assert second["status"] == "completed"

        # On the page each mark stands where the log has the message.
        events = (await api.get(f"/v1/conversations/{found['id']}/events", limit=5_000))["events"]
        text, expected = "", []
        for event in events:
            if event["type"] == "token" and event["generation"] == first["id"]:
                text += event["delta"]
            elif event["type"] == "message.applied":
                expected.append(text[-20:])
        for page in (desktop, phone):
            assert await page.do("evaluate", MARKED) == expected


@needs_pages
async def test_marks_stay_in_their_places_when_the_server_dies(server: Server, pages: str) -> None:
    """Another attempt says the text anew, with what it was told before."""
    async with browsing() as browser, Api.open(server.port) as api:
        desktop, phone = browser.desktop, browser.phone
        await call_together(pages, server.url, desktop, phone)
        await tell(phone, HEARD)
        await desktop.see("mark")
        before = await desktop.do("evaluate", MARKED)
        await server.kill()
        await desktop.see("#state[data-state=away]")
        await server.start()
        for page in (desktop, phone):
            await answered(page, 1)
        found = await conversation(api, desktop)
        assert found["generations"][0]["attempt"] == 2
        assert found["generations"][0]["text"].count("(Noted: ") == 1
        for page in (desktop, phone):
            assert await page.do("evaluate", MARKED) == before
            assert await page.do("evaluate", "document.querySelectorAll('mark').length") == 1
            assert await page.do("evaluate", "document.querySelector('.status').dataset.status") == "applied"
        assert await browser.complaints() == []


@needs_pages
async def test_what_comes_too_late_is_returned(server: Server, pages: str) -> None:
    """While a person decides on a call, a message waits for the next round; then the answer is stopped."""
    async with browsing() as browser, Api.open(server.port) as api:
        page = browser.desktop
        made = (await api.post("/v1/conversations", {"title": "Call"})).json()["id"]
        await page.do("goto", f"{pages}/biz_chat/team.html?server={server.url}#{made}")
        tool = {"name": "call_customer", "description": "Calls.", "approval": "always"}
        body = {
            "model": "demo",
            "input": "Call them.",
            "tools": [tool],
            "parameters": {"calls": [{"name": "call_customer", "arguments": {}}]},
        }
        run = (await api.post(f"/v1/conversations/{made}/generations", body)).headers["Location"]
        while (await api.get(run))["status"] != "waiting":
            await api.get(run, wait=1)
        await page.see("#stop")
        await tell(page, HEARD)
        await page.see(".status[data-status=queued]")
        await check_page(page)
        await page.do("click", "#stop")
        await page.see(".status[data-status=returned]")
        assert await page.text("#note .main") == "Ask"
        # Nothing runs: a message for a running answer is an ordinary one at once.
        late = {"role": "user", "content": TOLD, "deliver": "now"}
        assert (await api.post(f"/v1/conversations/{made}/messages", late)).status_code == 201
        await page.do(
            "wait_for_function", "document.querySelectorAll('.status[data-status=returned]').length === 2"
        )
        await check_page(page)
        await page.do("reload")
        await page.do(
            "wait_for_function", "document.querySelectorAll('.status[data-status=returned]').length === 2"
        )
        assert await browser.complaints() == []
