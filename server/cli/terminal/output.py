"""Where a command writes: the text of an answer, whole lines, and notes to the person at the keyboard.

Two kinds. `LiveOutput` (in `live_output.py`) redraws the last rows of a terminal and keeps a status line below
them. `PlainOutput` is for files, pipes and simple terminals: the answer goes to standard output, notes to
standard error. It must not know events or the server's API.
"""

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import click
import trio
from rich.console import Console, RenderableType
from rich.text import Text

from server.client.errors import ClientError
from server.unicode_safety import escape_controls

if TYPE_CHECKING:  # `config` and `migrate` start without the HTTP client
    from server.client.api import ReconnectPolicy

TICK_SECONDS = 0.08

Footer = Callable[[], RenderableType | None]
"""Returns what the status line shows now; None for nothing."""


class Output(Protocol):
    """A context manager. Text may be written in any pieces; control characters in it are escaped here."""

    def __enter__(self) -> "Output": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, text: str) -> None:
        """Appends to the answer."""

    def aside(self, label: str, text: str) -> None:
        """Appends running text that is no part of the answer, such as reasoning: dimmed, below its label."""

    def line(self, text: Text) -> None:
        """Prints a whole line below everything written so far."""

    def note(self, text: str, style: str = "dim") -> None:
        """Prints a note to the person, on a line of its own."""

    def refresh(self) -> None:
        """Draws what was written since the last call, and the status line."""


class PlainOutput:
    """For files, pipes, and terminals that cannot move the cursor. Each line of an aside begins with its label.

    `asides_apart`: asides go to standard error, so that standard output holds the answer and nothing else.
    """

    def __init__(self, *, asides_apart: bool = False) -> None:
        self._in_text = False
        self._apart = asides_apart
        self._label: str | None = None
        self._fresh = True

    def __enter__(self) -> "PlainOutput":
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
            sys.stdout.write(escape_controls(text))
            self._in_text = not text.endswith("\n")

    def aside(self, label: str, text: str) -> None:
        if self._label != label:
            self._end_aside()
            if not self._apart or sys.stdout.isatty():
                self._end_text()
            self._label, self._fresh = label, True
        out = sys.stderr if self._apart else sys.stdout
        for number, line in enumerate(escape_controls(text).split("\n")):
            if number:
                out.write("\n")
                self._fresh = True
            if line:
                out.write(f"{escape_controls(label)}: {line}" if self._fresh else line)
                self._fresh = False

    def line(self, text: Text) -> None:
        self._end_aside()
        self._end_text()
        sys.stdout.write(escape_controls(text.plain) + "\n")

    def note(self, text: str, style: str = "dim") -> None:
        self._end_aside()
        if sys.stdout.isatty():
            self._end_text()
        self.refresh()
        click.echo(f"tokentape: {escape_controls(text)}", err=True)

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
    """A console on standard output, without colours where the user wants none (https://no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return Console(highlight=False, emoji=False, markup=False, color_system=None)
    return Console(highlight=False, emoji=False, markup=False)


async def keep_refreshing(output: Output) -> None:
    """Refreshes until it is cancelled, so that the time in the status line goes on while nothing arrives."""
    while True:
        output.refresh()
        await trio.sleep(TICK_SECONDS)


def is_watched() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def reconnecting_text(reconnect_policy: "ReconnectPolicy") -> Text | None:
    """For the status line: for how long the server has been away; None while it answers."""
    if reconnect_policy.away_since is None:
        return None
    seconds = trio.current_time() - reconnect_policy.away_since
    return Text(f"reconnecting… {seconds:.0f} s  (nothing is lost; Ctrl-C leaves)", "yellow")


def note_absence(output: Output, reconnect_policy: "ReconnectPolicy") -> None:
    """Makes plain output, which has no status line, print a note when the server goes away and when it is back."""

    def note(error: ClientError | None) -> None:
        output.note("the server is back" if error is None else f"{error.message}; trying again")

    if isinstance(output, PlainOutput):
        reconnect_policy.on_change = note
