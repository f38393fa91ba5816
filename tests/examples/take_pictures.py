"""Takes the pictures of the examples in `docs/pictures/`: `python -m tests.examples.take_pictures [NAME …]`.

Owns, for each app, how its page is brought into the state that is worth a look. Needs no server, and no database:
it starts its own.
"""

import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from examples.run_all import serving_pages
from tests.conftest import postgres_folder
from tests.examples.conftest import WORKFLOWS
from tests.harness.browser import Page, browsing
from tests.harness.servers import ROOT, running

FOLDER = ROOT / "docs" / "pictures"
SIZE = {"width": 1000, "height": 720}


async def show_smart_exam(page: Page, address: str) -> None:
    """The slider was moved in the middle of a sentence."""
    await page.do("goto", address.replace("page.html", "grading.html"))
    await page.do("fill", "#essay [name=pace]", "0.2")
    await page.do("click", "#essay button")
    third = "document.querySelectorAll('.remark')[2]"
    await page.do("wait_for_function", f"{third}?.textContent.split(' ').length > 4")
    await page.do("press", "#slider", "End")
    await page.see("#changes .works")
    await page.do("wait_for_function", "document.querySelectorAll('.remark').length > 3")


async def show_diabe_check(page: Page, address: str) -> None:
    """A label was read."""
    await page.do("goto", address)
    await page.do("click", "#start .main")
    await page.see("#table tbody tr")
    await page.see("#state[data-state=done]")


async def show_biz_chat(page: Page, address: str) -> None:
    """The coach was told something in the middle of its answer, and goes on with it."""
    await page.do("goto", address.replace("page.html", "team.html"))
    await page.do("fill", "#call [name=author]", "Ada")
    await page.do("click", "#call .main")
    await page.do("wait_for_function", "document.querySelector('.coach')?.textContent.length > 120")
    await page.do("fill", "#note [name=content]", "They say their budget is 400 a month")
    await page.do("click", "#note [value=tell]")
    await page.see("mark")
    await page.do("wait_for_function", "document.querySelector('.coach').textContent.length > 400")


async def show_doc_summ(page: Page, address: str) -> None:
    """Half of the pages are summarised, and a question is answered."""
    await page.do("goto", address)
    await page.do("click", "#start .main")
    await page.see("#pages li:nth-child(5)")
    await page.do("fill", "#question [name=text]", "When does the ferry sail?")
    await page.do("press", "#question [name=text]", "Enter")
    await page.do("wait_for_function", "document.querySelector('#chat').textContent.length > 90")


async def show_service_bot(page: Page, address: str) -> None:
    """The big refund waits for the operator."""
    await page.do("goto", address)
    await page.do("click", "#ticket button")
    await page.see(".card.waits")
    await page.do("evaluate", "document.querySelector('.card.waits').scrollIntoView({ block: 'center' })")


async def show_content_forge(page: Page, address: str) -> None:
    """An article is done, another one is being written."""
    await page.do("goto", address)
    for topic, sections, about in (
        ("The bell under the counter", "2", "completed"),
        ("The clock that nobody wound", "6", "1 of 6"),
    ):
        await page.do("fill", "[name=topic]", topic)
        await page.do("fill", "[name=sections]", sections)
        await page.do("click", "#order button")
        await page.see(f"#title:text-is('{topic}')")
        await page.see(f"#about:has-text('{about}')")


PICTURES: dict[str, Callable[[Page, str], Awaitable[None]]] = {
    "smart_exam": show_smart_exam,
    "diabe_check": show_diabe_check,
    "biz_chat": show_biz_chat,
    "doc_summ": show_doc_summ,
    "service_bot": show_service_bot,
    "content_forge": show_content_forge,
}


async def main(names: list[str]) -> None:
    """A server with a database of its own, all pages, and one picture after the other."""
    allowed: list[str] = []
    with (
        tempfile.TemporaryDirectory() as data,
        postgres_folder(Path(data), "pictures") as database,
        serving_pages(0, allowed) as pages,
    ):
        env = {
            "TOKENTAPE_WORKFLOWS": WORKFLOWS,
            "TOKENTAPE_ALLOWED_ORIGINS": pages,
            "TOKENTAPE_DATA_DIR": str(database),
            "SERVICE_BOT_SHOP": f"{data}/shop.json",
        }
        async with running(None, env) as server:
            allowed.append(server.url)
            for name in names:
                async with browsing() as browser:
                    await take(browser.desktop, name, f"{pages}/{name}/page.html?server={server.url}")


async def take(page: Page, name: str, address: str) -> None:
    """One picture."""
    await page.do("set_viewport_size", SIZE)
    await page.do("emulate_media", reduced_motion="reduce")  # no picture in the middle of a scroll
    await PICTURES[name](page, address)
    await page.do("evaluate", "document.activeElement.blur()")
    path = FOLDER / f"{name}.png"
    await page.do("screenshot", path=str(path))
    print(path.relative_to(ROOT))  # noqa: T201


if __name__ == "__main__":
    trio.run(main, sys.argv[1:] or [*PICTURES])
