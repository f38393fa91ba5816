"""The documentation: no link is dead, and every setting, path and event type is on its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config.settings import Settings
from server.web.openapi import document
from tests.harness.servers import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def _links(page: Path) -> Iterator[str]:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        found = link[0] or link[1]
        if not found.startswith(("http:", "https:")):
            yield found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    dead = []
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_claim_about_security_names_a_test_that_is_there() -> None:
    """Each row of what holds names at least one; files and functions exist."""
    text = _text("docs/security.md")
    table = text[text.index("## What holds") : text.index("## What does not hold")]
    rows = [line for line in table.splitlines() if line.startswith("| **")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, row
        for path, function in named:
            assert (ROOT / path).is_file(), path
            assert not function or re.search(rf"^(async )?def {function}\(", _text(path), re.MULTILINE), function


def test_readme_figures_equal_the_results() -> None:
    """The readme names the passage of each figure; that passage exists and has the figure."""
    readme, results = " ".join(_text("README.md").split()), _text("bench/RESULTS.md")
    named = re.findall(r"\(bench/RESULTS\.md\), \"([^\"]+)\"", readme)
    assert named == ["The load it is built for", "5,000 readers come back at once", "What durability costs"]
    passages = [results[results.index(f"**{title}") :].partition("\n\n**")[0] for title in named]
    assert "within 36 ms" in readme
    assert "99 % within 73 ms" in readme
    assert "| **150** | 36 ms | 73 ms |" in passages[0]
    assert "all served within 3.2 s" in readme
    assert re.search(r"until all readers are served \|[^|]*\| 3\.17 s \|", passages[1])
    assert "0.6 ms longer at the median" in readme
    medians = {
        row: float(p50) for row, p50 in re.findall(r"^\| (on|off) \|[^|]*\| ([\d.]+) /", passages[2], re.MULTILINE)
    }
    assert round(medians["on"] - medians["off"], 1) == 0.6


@pytest.mark.parametrize("folder", ["docs", "docs/decisions"])
def test_index_links_every_page_of_its_folder(folder: str) -> None:
    """A page that the index does not name is found by nobody."""
    index = ROOT / folder / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _links(index)}
    pages = {page for page in PAGES if page.parent == index.parent and page != index}
    assert pages <= linked, pages - linked


def test_every_setting_is_documented() -> None:
    """By its name, with the default that the program has."""
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|", _text("docs/settings.md"), re.MULTILINE))
    named = {name.removeprefix("TOKENTAPE_"): cell for cell in rows for name in re.findall(r"`([A-Z_]+)`", cell)}
    assert set(named) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, int | float) and not isinstance(default, bool) and default < 1_048_576:
            assert rows[named[name.upper()]] == f"{default:.0f}", name


def test_every_route_is_documented() -> None:
    """Method and path, in the first table."""
    text = _text("docs/api.md")
    for path, methods in document()["paths"].items():
        short = re.sub(r"\{(generation|conversation)\}", "{id}", path)
        for method in methods:
            assert f"`{method.upper()} {short}`" in text, (method, path)


def test_every_event_type_is_documented() -> None:
    """The first column of the table of events is the list in the OpenAPI document."""
    schemas = document()["components"]["schemas"]
    branches = [schemas[one["$ref"].rpartition("/")[2]] for one in schemas["Event"]["oneOf"]]
    types = [kind for branch in branches for kind in branch["properties"]["type"]["enum"]]
    listed = re.findall(r"^\| `([a-z]+(?:\.[a-z]+)?)` \|", _text("docs/api.md"), re.MULTILINE)
    assert len(types) > 15
    assert sorted(listed) == sorted(types)
