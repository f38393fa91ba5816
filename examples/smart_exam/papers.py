"""The text of a paper, page by page. Knows PDFs, and neither workflows nor marks.

A stranger's PDF is read in a process of its own, which runs this file: PDF in, JSON out. One that is made to
exhaust its reader ends that process alone, and nobody's tokens wait meanwhile.
"""

import json
import resource
import subprocess
import sys
from io import BytesIO
from typing import Any

import trio

MAX_PAGES = 100
MAX_PAGE_TEXT = 20_000
"""Characters of a page that are read."""
SECONDS = 30
MEMORY = 1 << 30
"""Bytes that the process may use."""


class UnreadablePaper(Exception):
    """A paper cannot be graded; the text says why, to whoever handed it in."""


async def read_pages(pdf: bytes) -> list[str]:
    """The texts of its pages, of which at least one says something. Raises `UnreadablePaper`."""
    done = None
    with trio.move_on_after(SECONDS):
        done = await trio.run_process(
            [sys.executable, __file__], stdin=pdf, capture_stdout=True, stderr=subprocess.DEVNULL, check=False
        )
    if done is None or done.returncode != 0:
        raise UnreadablePaper("This is no PDF, or reading it takes more time or memory than a paper may.")
    told: dict[str, Any] = json.loads(done.stdout)
    texts: list[str] = told["texts"]
    if told["pages"] > MAX_PAGES:
        raise UnreadablePaper(f"It has {told['pages']} pages; {MAX_PAGES} are the most.")
    if not any(texts):
        raise UnreadablePaper("No page has text. Are they pictures of pages?")
    return texts


def extract(pdf: bytes) -> dict[str, Any]:
    """How many pages there are, and the texts of the first ones."""
    from pypdf import PdfReader

    pages = PdfReader(BytesIO(pdf)).pages
    texts = [page.extract_text().strip()[:MAX_PAGE_TEXT] for page in pages[:MAX_PAGES]]
    return {"pages": len(pages), "texts": texts}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    sys.stdout.write(json.dumps(extract(sys.stdin.buffer.read())))
