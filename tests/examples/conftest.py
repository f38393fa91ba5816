"""The examples as somebody runs them: a real server, and their pages beside it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from examples.run_all import APPS, EXAMPLES, serving_pages
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running

WORKFLOWS = ",".join(f"examples.{name}.app" for name in APPS if (EXAMPLES / name / "app.py").exists())
ALLOWED: list[str] = []
"""The servers that the pages may be told to talk to, by `?server=`."""


@pytest.fixture
def pages() -> Iterator[str]:
    """The origin of the examples' pages, as `make examples` serves them."""
    with serving_pages(0, ALLOWED) as origin:
        yield origin


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Where the service bot keeps its world."""
    return tmp_path / "shop.json"


@pytest.fixture
async def server(database: TestDatabase, pages: str, shop: Path) -> AsyncIterator[Server]:
    """A server with the workflows of all apps."""
    env = {
        "TOKENTAPE_WORKFLOWS": WORKFLOWS,
        "TOKENTAPE_ALLOWED_ORIGINS": pages,
        "SERVICE_BOT_SHOP": str(shop),
    }
    async with running(database.app_url, env) as server:
        ALLOWED.append(server.url)
        yield server
        ALLOWED.clear()
