"""Where a command writes: an answer that streams, lines of ours, and notes about both.

Two kinds: on a terminal (`live_output.py`) with a line at the bottom that says how things stand, and plain, where
the answer goes to standard output as it comes and notes go to standard error.
"""

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import click
import trio
from rich.console import Console, RenderableType
from rich.text import Text

from server.cli.terminal_escape import clean
from server.client.errors import ClientError
from server.client.patience import Patience

TICK_SECONDS = 0.08

Footer = Callable[[], RenderableType | None]


class Paper(Protocol):
    """A context manager. Text may come in any pieces; it is made harmless here."""

    def __enter__(self) -> "Paper": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, text: str) -> None:
        """More of the answer, right behind what there is."""

    def aside(self, label: str, text: str) -> None:
        """More running text that is no part of the answer: dimmed, below the label that says what it is."""

    def line(self, text: Text) -> None:
        """A whole line of what was asked for, below all there is."""

    def note(self, text: str, style: str = "dim") -> None:
        """A remark about it, on a line of its own."""

    def refresh(self) -> None:
        """Shows what has come since, and how things stand now."""


class PlainPaper:
    """For files, pipes, and terminals that cannot move the cursor. Each line of an aside begins with its label.

    `asides_apart`: they go to standard error, so that standard output is the answer and nothing else.
    """

    def __init__(self, *, asides_apart: bool = False) -> None:
        self._in_text = False
        self._apart = asides_apart
        self._label: str | None = None
        self._fresh = True

    def __enter__(self) -> "PlainPaper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_aside()
        self._end_text()
        self.refresh()

    def write(self, text: str) -> None:
        if text:
            self._end_aside()
            sys.stdout.write(clean(text))
            self._in_text = not text.endswith("\n")

    def aside(self, label: str, text: str) -> None:
        if self._label != label:
            self._end_aside()
            if not self._apart or sys.stdout.isatty():
                self._end_text()
            self._label, self._fresh = label, True
        out = sys.stderr if self._apart else sys.stdout
        for number, line in enumerate(clean(text).split("\n")):
            if number:
                out.write("\n")
                self._fresh = True
            if line:
                out.write(f"{clean(label)}: {line}" if self._fresh else line)
                self._fresh = False

    def line(self, text: Text) -> None:
        self._end_aside()
        self._end_text()
        sys.stdout.write(clean(text.plain) + "\n")

    def note(self, text: str, style: str = "dim") -> None:
        self._end_aside()
        if sys.stdout.isatty():
            self._end_text()
        self.refresh()
        click.echo(f"tokentape: {clean(text)}", err=True)

    def refresh(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()

    def _end_aside(self) -> None:
        if not self._fresh:
            (sys.stderr if self._apart else sys.stdout).write("\n")
        self._label, self._fresh = None, True

    def _end_text(self) -> None:
        if self._in_text:
            sys.stdout.write("\n")
            self._in_text = False


def make_console() -> Console:
    """Standard output; no colours and no bold where they are not wanted (https://no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return Console(highlight=False, emoji=False, markup=False, color_system=None)
    return Console(highlight=False, emoji=False, markup=False)


def open_paper(
    footer: Footer, *, plain: bool = False, markdown: bool = False, asides_apart: bool = False
) -> Paper:
    """The right kind for standard output. `footer` is asked how things stand whenever it is drawn.

    `asides_apart` is for the plain kind.
    """
    console = make_console()
    if plain or not console.is_terminal or console.is_dumb_terminal or not sys.stdout.isatty():
        return PlainPaper(asides_apart=asides_apart)
    from server.cli.live_output import LivePaper

    return LivePaper(console, footer, markdown=markdown)


async def keep_fresh(paper: Paper) -> None:
    """Refreshes until it is cancelled: the time in the footer goes on while nothing comes."""
    while True:
        paper.refresh()
        await trio.sleep(TICK_SECONDS)


def watched() -> bool:
    """Whether a person sees standard error."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def reconnecting(patience: Patience) -> Text | None:
    """For the footer: how long the server has been away."""
    if patience.away_since is None:
        return None
    seconds = trio.current_time() - patience.away_since
    return Text(f"reconnecting… {seconds:.0f} s  (nothing is lost; Ctrl-C leaves)", "yellow")


def tell_absence(paper: Paper, patience: Patience) -> None:
    """On plain paper, where no footer says it: a note when the server goes away, and one when it is back."""

    def note(error: ClientError | None) -> None:
        paper.note("the server is back" if error is None else f"{error.message}; trying again")

    if isinstance(paper, PlainPaper):
        patience.tell = note
