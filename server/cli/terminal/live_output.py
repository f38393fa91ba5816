"""Output on a terminal: finished rows are printed once and scroll away; only the last row is redrawn.

Only the unfinished row (with Markdown: the unfinished block) and the status line are drawn again and again. So
nothing that has scrolled off is printed twice, and a long answer costs no more per token than a short one. A row
is finished when nothing that may follow can change it: after a newline, or when the next word no longer fits. No
row is wider than the terminal, so each is exactly one row on the screen.
"""

import re
import sys
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from server.cli.terminal.output import Footer, Output, PlainOutput, make_console
from server.unicode_safety import escape_controls


def split_rows(text: str, width: int) -> tuple[list[str], str]:
    """The finished rows of `text`, and the rest, which may still grow."""
    *whole, rest = text.split("\n")
    rows: list[str] = []
    for line in whole:
        settled, last = _wrap(line, width)
        rows += [*settled, last]
    settled, rest = _wrap(rest, width)
    return rows + settled, rest


def _wrap(line: str, width: int) -> tuple[list[str], str]:
    """The full rows of a line, broken at spaces where possible, and what is left for its last row."""
    rows = []
    while cell_len(line) > width:
        end = _fitting(line, width)
        space = line.rfind(" ", 1, end + 1)
        cut = space + 1 if space > 0 else end
        rows.append(line[:cut].rstrip(" "))
        line = line[cut:]
    return rows, line


def _fitting(line: str, width: int) -> int:
    """How many characters of the line fit into `width` cells; at least one."""
    cells = 0
    for number, character in enumerate(line):
        cells += cell_len(character)
        if cells > width:
            return max(1, number)
    return len(line)


_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)


def _markdown(text: str) -> Markdown:
    """The rendered text. Links show their address: a terminal's own hyperlinks would hide where they lead."""
    return Markdown(text, hyperlinks=False)


class LiveOutput:
    """An `Output`. On exit everything is printed, the status line is gone and the cursor is shown again."""

    def __init__(self, console: Console, footer: Footer, *, markdown: bool = False) -> None:
        self._console = console
        self._footer = footer
        self._markdown = markdown
        self._open = ""
        self._label: str | None = None
        # Live draws this object anew at each print; a rendered copy would show rows printed in between twice.
        self._live = Live(self, console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> "LiveOutput":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle_all()
        self._live.stop()

    def write(self, text: str) -> None:
        if self._label is not None and text:
            self._settle_all()
        self._open += escape_controls(text).replace("\t", "    ")
        if self._markdown:
            self._settle_blocks()
        else:
            self._settle_rows()

    def aside(self, label: str, text: str) -> None:
        mark = f"{escape_controls(label)}: "
        if self._label != label:
            self._settle_all()
            self._label, self._open = label, mark
        # Each line begins with the label: a terminal without colours shows no difference otherwise.
        self._open += escape_controls(text).replace("\t", "    ").replace("\n", f"\n{mark}")
        self._settle_rows()

    def line(self, text: Text) -> None:
        self._settle_all()
        text.plain = escape_controls(text.plain)
        self._console.print(text, no_wrap=False, overflow="fold", crop=False, soft_wrap=False)

    def note(self, text: str, style: str = "dim") -> None:
        self.line(Text(text, style))

    def refresh(self) -> None:
        self._live.refresh()

    def __rich__(self) -> RenderableType:
        footer = self._footer()
        parts: list[RenderableType] = [footer] if footer is not None else []
        if self._open:
            marked = self._markdown and self._label is None
            parts.insert(0, _markdown(self._open) if marked else self._text(self._open))
        return Group(*parts)

    def _settle_all(self) -> None:
        text, self._open = self._open, ""
        if text and self._markdown and self._label is None:
            self._console.print(_markdown(text))
        elif (
            text and text != f"{escape_controls(self._label or '')}: "
        ):  # not an aside's line that holds only its label
            self._print_rows([text])
        self._label = None

    def _settle_rows(self) -> None:
        rows, self._open = split_rows(self._open, self._console.width)
        if rows:
            self._print_rows(rows)

    def _settle_blocks(self) -> None:
        """Prints the blocks that end with an empty line, unless that line is inside a fenced code block."""
        end = self._open.rfind("\n\n")
        if end < 0 or len(_FENCE.findall(self._open, 0, end + 1)) % 2:
            return
        done, self._open = self._open[:end], self._open[end + 2 :]
        self._console.print(_markdown(done))
        self._console.print()

    def _print_rows(self, rows: list[str]) -> None:
        self._console.print(self._text("\n".join(rows)), no_wrap=True, overflow="ignore", crop=False)

    def _text(self, text: str) -> Text:
        """The text as it is drawn, before and after it is finished."""
        return Text(text, "" if self._label is None else "dim", no_wrap=True)


def open_output(
    footer: Footer, *, plain: bool = False, markdown: bool = False, asides_apart: bool = False
) -> Output:
    """The kind of output that fits standard output. `footer` returns the status line each time it is drawn.

    `asides_apart`: see `PlainOutput`.
    """
    console = make_console()
    if plain or not console.is_terminal or console.is_dumb_terminal or not sys.stdout.isatty():
        return PlainOutput(asides_apart=asides_apart)
    return LiveOutput(console, footer, markdown=markdown)
