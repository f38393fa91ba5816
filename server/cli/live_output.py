"""The paper on a terminal: what is settled is printed once and scrolls away; the last row is still drawn.

Only the unfinished row (with Markdown: block) and the footer are drawn again and again, so nothing that has
scrolled off is ever printed twice, and a long answer costs no more per token than a short one.
"""

import re
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from server.cli.output import Footer
from server.cli.terminal_escape import clean
from server.cli.text_wrap import split_rows

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)


def _markdown(text: str) -> Markdown:
    """The text laid out, without hyperlinks of the terminal, which hide where they go: it shows the address."""
    return Markdown(text, hyperlinks=False)


class LivePaper:
    """A `Paper`. Leaves the terminal with everything printed, the footer gone and the cursor shown."""

    def __init__(self, console: Console, footer: Footer, *, markdown: bool = False) -> None:
        self._console = console
        self._footer = footer
        self._markdown = markdown
        self._open = ""
        self._label: str | None = None
        # Itself, not what it looks like now: each print draws it anew, and would draw what was settled just then.
        self._live = Live(self, console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> "LivePaper":
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
        self._open += clean(text).replace("\t", "    ")
        if self._markdown:
            self._settle_blocks()
        else:
            self._settle_rows()

    def aside(self, label: str, text: str) -> None:
        mark = f"{clean(label)}: "
        if self._label != label:
            self._settle_all()
            self._label, self._open = label, mark
        # Each line of it is marked: a terminal without colours shows nothing dimmed.
        self._open += clean(text).replace("\t", "    ").replace("\n", f"\n{mark}")
        self._settle_rows()

    def line(self, text: Text) -> None:
        self._settle_all()
        text.plain = clean(text.plain)
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
        elif text and text != f"{clean(self._label or '')}: ":  # else a line of an aside that has only its mark
            self._print_rows([text])
        self._label = None

    def _settle_rows(self) -> None:
        rows, self._open = split_rows(self._open, self._console.width)
        if rows:
            self._print_rows(rows)

    def _settle_blocks(self) -> None:
        """Prints the blocks behind which there is an empty line; not inside of a fence."""
        end = self._open.rfind("\n\n")
        if end < 0 or len(_FENCE.findall(self._open, 0, end + 1)) % 2:
            return
        done, self._open = self._open[:end], self._open[end + 2 :]
        self._console.print(_markdown(done))
        self._console.print()

    def _print_rows(self, rows: list[str]) -> None:
        self._console.print(self._text("\n".join(rows)), no_wrap=True, overflow="ignore", crop=False)

    def _text(self, text: str) -> Text:
        """As it is drawn, now and once it is settled."""
        return Text(text, "" if self._label is None else "dim", no_wrap=True)
