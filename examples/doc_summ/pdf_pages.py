"""The text of a PDF, page by page. Knows pypdf, and neither workflows nor models.

A stranger's PDF is read in a process of its own, this file: PDF in, JSON out. It may take seconds, in which the
server would send no token to anybody; and a file made to exhaust its reader ends that process alone. The pages of
the last few documents are kept, so that the second question to one has its first word sooner.
"""

import hashlib
import json
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO

import trio

MAX_PAGES = 300
SECONDS = 30
"""How long the reading may take."""
MEMORY = 1024 * 1024 * 1024
"""Bytes that the process may use."""
HEADING = re.compile(r"\A([^\n]{0,60}[^\n.!?,;:])\n+(?=[A-Z“\"])")
"""A short first line with a capital behind it. It gets a full stop, to be no part of the first sentence."""
MAX_RECENT = 8
"""Documents whose pages are kept: of the largest, each takes about 2 MB."""
AT_ONCE = trio.CapacityLimiter(2)
"""Documents that are read side by side: each takes a core."""
MAX_PAGE_TEXT = 8_000
"""Characters of a page that are kept: more than a printed page has."""


class UnreadablePdf(Exception):
    """The document cannot be read; its text is for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that has text; `number` counts from 1 and over empty pages too."""

    number: int
    text: str


_recent: dict[bytes, list[Page]] = {}  # by the PDF's SHA-256, the last read at the end


async def read_pages(pdf: bytes) -> list[Page]:
    """The pages that have text, in order; never none. Raises `UnreadablePdf`."""
    digest = await trio.to_thread.run_sync(lambda: hashlib.sha256(pdf).digest())
    async with AT_ONCE:
        pages = _recent.pop(digest, None) or await _read_in_process(pdf)
    _recent[digest] = pages
    while len(_recent) > MAX_RECENT:
        del _recent[next(iter(_recent))]
    return pages


async def _read_in_process(pdf: bytes) -> list[Page]:
    done = None
    with trio.move_on_after(SECONDS):
        done = await trio.run_process(
            [sys.executable, __file__],
            stdin=pdf,
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            env={},  # the server's has the keys of its providers
        )
    if done is None:
        raise UnreadablePdf(f"Reading this PDF takes more than {SECONDS} seconds.")
    if done.returncode != 0:
        raise UnreadablePdf("This PDF is damaged, or needs more memory than its pages can be worth.")
    told = json.loads(done.stdout)
    if isinstance(told, str):
        raise UnreadablePdf(told)
    return [Page(number, text) for number, text in told]


def extract(pdf: bytes) -> list[tuple[int, str]] | str:
    """Number and text of each page that has text, or why there are none."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(BytesIO(pdf))
        if reader.is_encrypted:
            return "This PDF is locked by a password. Send it without one."
        if len(reader.pages) > MAX_PAGES:
            return f"This PDF has {len(reader.pages)} pages; {MAX_PAGES} are the most. Send it in parts."
        texts = [HEADING.sub(r"\1.\n", page.extract_text().strip()) for page in reader.pages]
    except PyPdfError:
        return "This is no PDF, or a damaged one."
    found = [(number, text[:MAX_PAGE_TEXT]) for number, text in enumerate(texts, 1) if text]
    return found or "No page of this PDF has text: its pages are pictures. Send it with recognised text (OCR)."


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    sys.stdout.write(json.dumps(extract(sys.stdin.buffer.read())))
