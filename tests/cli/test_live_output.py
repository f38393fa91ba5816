"""Output on a terminal: how streamed text is split into rows, what Markdown may show, where notes wrap."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from server.cli.terminal.live_output import LiveOutput, split_rows

LINKS = [
    "[https://bank.example](https://evil.example)",
    '[x](https://evil.example "https://bank.example")',
    "<https://evil.example>",
]
NO_LINKS = ["![https://bank.example](https://evil.example/x.png)", "[x][1]\n\n[1]: https://evil.example"]
"""Rendered, these leave no address that could be followed."""


def _written(text: str, *, markdown: bool = False, width: int = 40, note: str = "") -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False, emoji=False, markup=False)
    with LiveOutput(console, lambda: None, markdown=markdown) as output:
        output.write(text)
        output.refresh()
        if note:
            output.note(note)
    return out.getvalue()


@pytest.mark.parametrize("ending", ["", "\n\nmore"])
@pytest.mark.parametrize("text", [*LINKS, *NO_LINKS])
def test_markdown_hides_no_address(text: str, ending: str) -> None:
    """A hyperlink of the terminal (OSC 8) shows one address and opens another; the address is written out."""
    written = _written(text + ending, markdown=True, width=100)
    assert "\x1b]" not in written
    assert text in NO_LINKS or "evil.example" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)


@pytest.mark.parametrize("markdown", [False, True])
def test_escape_sequences_in_an_answer_are_not_printed(markdown: bool) -> None:
    """Also within code, a heading, or the text of a link."""
    escape_sequences = "\x1b]8;;https://evil.example\x1b\\\\x\x1b]8;;\x1b\\\\ \x9d0;t\x07"
    for text in (
        escape_sequences,
        f"`{escape_sequences}`",
        f"```\n{escape_sequences}\n```",
        f"# {escape_sequences}",
        f"[{escape_sequences}](x)",
        f"[x]({escape_sequences})",
    ):
        written = _written(text, markdown=markdown)
        assert "\x1b]" not in written
        assert not re.search("[\x80-\x9f\x07]", written)


@pytest.mark.parametrize("width", [10, 23, 40])
def test_notes_wrap_between_words(width: int) -> None:
    """Notes wrap at the terminal's edge; a word longer than a row is broken, and no word is lost."""
    note = "worker_lost: the server stopped. This is all that was written; it stays in the log. ids_are_long_ones"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", _written("", width=width, note=note)).strip()
    rows = plain.split("\n")
    assert all(len(row.rstrip()) <= width for row in rows)
    whole = [word for word in note.split() if len(word) <= width]
    assert [word for word in plain.split() if word in whole] == whole
    assert "".join(plain.split()) == "".join(note.split())


PROSE = st.text(st.sampled_from("ab cdé“ \n日本wörd-longer"), max_size=200)


@given(PROSE, st.integers(2, 30), st.lists(st.integers(1, 9), max_size=60))
def test_rows_hold_all_text_whatever_the_pieces(text: str, width: int, sizes: list[int]) -> None:
    """No letter is lost, repeated or moved, no row is wider than the terminal, however the text was cut."""
    rows: list[str] = []
    rest = ""
    place = 0
    for size in [*sizes, len(text)]:
        settled, rest = split_rows(rest + text[place : place + size], width)
        rows += settled
        place += size
    assert "".join([*rows, rest]).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert all(cell_len(row) <= width for row in [*rows, rest])
    assert (rows, rest) == split_rows(text, width)


def test_rows_break_at_spaces() -> None:
    """A word is broken only if it is longer than a row."""
    assert split_rows("one two three", 8) == (["one two"], "three")
    assert split_rows("abcdefghij", 4) == (["abcd", "efgh"], "ij")
    assert split_rows("a\n\nb", 4) == (["a", ""], "b")
    assert split_rows("日本語", 4) == (["日本"], "語")
