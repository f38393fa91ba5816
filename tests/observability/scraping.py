"""Scrapes a server's metrics page with prometheus-client's parser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import trio
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.harness.http import http_client
from tests.harness.servers import Server


class Scrape:
    """One parsed page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def samples(self, name: str) -> list[Sample]:
        """All samples of a full name (with `_total`, `_count` …)."""
        return [one for family in self.families.values() for one in family.samples if one.name == name]

    def get(self, name: str, /, **labels: str) -> float:
        """The sum of the samples that have these labels; `tokentape_` is understood. Fails if there are none."""
        found = [one.value for one in self.samples(f"tokentape_{name}") if labels.items() <= one.labels.items()]
        assert found, f"no sample {name} {labels}"
        return sum(found)


class Scraper:
    """Scrapes one server."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def scrape(self) -> Scrape:
        """The page now."""
        answer = await self._client.get("/metrics")
        assert answer.status_code == 200, answer.text
        return Scrape(answer.text)

    async def until(self, name: str, value: float, /, **labels: str) -> Scrape:
        """Scrapes until a figure has a value; fails after a while, with what it was."""
        found: Scrape | None = None
        with trio.move_on_after(20):
            while True:
                found = await self.scrape()
                if found.get(name, **labels) == value:
                    return found
                await trio.sleep(0.02)
        raise AssertionError(f"{name} {labels} is {found and found.get(name, **labels)}, not {value}")


@asynccontextmanager
async def scraping(server: Server) -> AsyncIterator[Scraper]:
    """A scraper of the server."""
    async with http_client(server.url) as client:
        yield Scraper(client)
