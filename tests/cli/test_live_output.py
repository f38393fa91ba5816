"""The paper on a terminal, without one: what Markdown may make of an answer, and where our own notes wrap."""

import io
import re

import pytest
from rich.console import Console

from server.cli.live_output import LivePaper

LINKS = [
    "[https://bank.example](https://evil.example)",
    '[x](https://evil.example "https://bank.example")',
    "<https://evil.example>",
]
NO_LINKS = ["![https://bank.example](https://evil.example/x.png)", "[x][1]\n\n[1]: https://evil.example"]
"""Of which nothing is left that could be followed."""


def _written(text: str, *, markdown: bool = False, width: int = 40, note: str = "") -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False, emoji=False, markup=False)
    with LivePaper(console, lambda: None, markdown=markdown) as paper:
        paper.write(text)
        paper.refresh()
        if note:
            paper.note(note)
    return out.getvalue()


@pytest.mark.parametrize("ending", ["", "\n\nmore"])
@pytest.mark.parametrize("text", [*LINKS, *NO_LINKS])
def test_markdown_hides_no_address(text: str, ending: str) -> None:
    """A hyperlink of the terminal (OSC 8) shows one address and opens another; the address is written out."""
    written = _written(text + ending, markdown=True, width=100)
    assert "\x1b]" not in written
    assert text in NO_LINKS or "evil.example" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)


@pytest.mark.parametrize("markdown", [False, True])
def test_no_sequence_of_the_answers_own_gets_through(markdown: bool) -> None:
    """Whatever is around it: code, a heading, a link's text."""
    rude = "\x1b]8;;https://evil.example\x1b\\\\x\x1b]8;;\x1b\\\\ \x9d0;t\x07"
    for text in (rude, f"`{rude}`", f"```\n{rude}\n```", f"# {rude}", f"[{rude}](x)", f"[x]({rude})"):
        written = _written(text, markdown=markdown)
        assert "\x1b]" not in written
        assert not re.search("[\x80-\x9f\x07]", written)


@pytest.mark.parametrize("width", [10, 23, 40])
def test_notes_wrap_between_words(width: int) -> None:
    """At the terminal's edge; a word that is longer than the terminal is broken, and none is lost."""
    note = "worker_lost: the server stopped. This is all that was written; it stays in the log. ids_are_long_ones"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", _written("", width=width, note=note)).strip()
    rows = plain.split("\n")
    assert all(len(row.rstrip()) <= width for row in rows)
    whole = [word for word in note.split() if len(word) <= width]
    assert [word for word in plain.split() if word in whole] == whole
    assert "".join(plain.split()) == "".join(note.split())
