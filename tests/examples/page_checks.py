"""What every page of the examples has to hold, in every size and colour that people have.

axe-core (https://github.com/dequelabs/axe-core) looks for what people with a screen reader, a keyboard or weak
eyes could not use: missing names, low contrast, wrong roles. It is under the MPL-2.0, and nothing ships it.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.harness.browser import CHROMIUM, NO_CHROMIUM, PAGES, Page
from tests.harness.servers import ROOT

AXE = ROOT / "tests" / "real_clients" / "node" / "node_modules" / "axe-core" / "axe.min.js"
NO_AXE = "tests/real_clients/node has no axe-core yet (tools/test-needs runs npm ci)"
SIZES = tuple(PAGES[name]["viewport"] for name in ("desktop", "phone"))
COLOURS = ("light", "dark")

needs_pages = pytest.mark.skipif(
    CHROMIUM is None or not AXE.exists(), reason=NO_CHROMIUM if CHROMIUM is None else NO_AXE
)
"""For tests that call `check_page`."""

RUN_AXE = """
async (runOnly) => {
    const { violations } = await axe.run(document, { resultTypes: ['violations'], ...runOnly });
    return violations.flatMap(({ id, help, nodes }) =>
        nodes.map(({ target, failureSummary }) => `${id}: ${help}. ${target}: ${failureSummary}`));
}
"""
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}


async def check_page(page: Page) -> None:
    """Fails unless the page, as it is now, is without fault on desktop and phone, in light and in dark.

    axe finds nothing, nothing stands out to the right, and no page of the test wrote an error to the console. Each
    size and each colour meets all of axe's rules once; the other two meet the one that a colour can break.
    The page has the size and the colours that it had, when this returns.
    """
    await page.do("add_script_tag", content=_axe())
    before: dict[str, int] = await page.do("evaluate", "({ width: innerWidth, height: innerHeight })")
    dark: bool = await page.do("evaluate", "matchMedia('(prefers-color-scheme: dark)').matches")
    troubles: list[str] = []
    for size, all_rules_in in zip(SIZES, COLOURS, strict=True):
        await page.do("set_viewport_size", size)
        for colours in COLOURS:
            await page.do("emulate_media", color_scheme=colours)
            rules = {} if colours == all_rules_in else CONTRAST
            found: list[Any] = await page.do("evaluate", RUN_AXE, rules)
            found += [] if await page.fits() else ["something stands out to the right"]
            troubles += [f"{size['width']} pixels, {colours}: {trouble}" for trouble in found]
    await page.do("set_viewport_size", before)
    await page.do("emulate_media", color_scheme="dark" if dark else "light")
    troubles += await page.console_errors()
    assert not troubles, "\n".join(troubles)


def _axe() -> str:
    return Path(AXE).read_text(encoding="utf-8")
