"""The documentation for clients: every program in it is tested, and its recipe for curl finds the right cursor."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.clients.api import Api
from tests.clients.sse import Parser

from . import scripts
from .libraries import LIBRARIES
from .test_browser import PROGRAMS

TEXT = "\n".join(page.read_text(encoding="utf-8") for page in scripts.DOCS)


def test_every_documented_program_is_tested() -> None:
    fences = re.findall(r"^```(\w*)$", TEXT, re.MULTILINE)[::2]
    tried = {library.program for library in LIBRARIES} | set(PROGRAMS)
    assert set(scripts.programs()) == tried
    assert len(fences) == len([name for name in scripts.programs() if f" {name}" in TEXT])


async def test_curl_recipe_finds_the_cursor_of_an_eventsource(api: Api, tmp_path: Path) -> None:
    """The awk line reads streams that end anywhere."""
    (recipe,) = re.findall(r"last=\$\((awk .*) events\.txt\)", TEXT)
    generation = await api.generate(tokens=3)
    await api.finished(generation)
    answer = await api.http.get(f"{generation}/events", headers={"Accept": "text/event-stream"})
    found, expected = [], []
    for end in range(len(answer.content) - 420, len(answer.content) + 1, 3):
        heard = answer.content[:end]
        parser = Parser()
        parser.feed(heard)
        expected.append(int(parser.last_event_id or 0))
        done = subprocess.run(["sh", "-c", f"{recipe} -"], input=heard, capture_output=True, check=True)
        found.append(int(done.stdout))
    assert found == expected
    assert len(set(expected)) > 2
