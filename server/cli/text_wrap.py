"""Text that streams, cut into the rows of a terminal. Pure.

A row is settled when nothing that may follow can change it: behind a newline, or when the words in it no
longer fit. Rows are never wider than the terminal, so that a drawn row is one row on the screen.
"""

from rich.cells import cell_len


def split_rows(text: str, width: int) -> tuple[list[str], str]:
    """The settled rows of `text`, and the rest, which may still grow."""
    *whole, rest = text.split("\n")
    rows: list[str] = []
    for line in whole:
        settled, last = _wrap(line, width)
        rows += [*settled, last]
    settled, rest = _wrap(rest, width)
    return rows + settled, rest


def _wrap(line: str, width: int) -> tuple[list[str], str]:
    """The full rows of a line, broken at spaces where there are some, and what is left for the last row."""
    rows = []
    while cell_len(line) > width:
        end = _fitting(line, width)
        space = line.rfind(" ", 1, end + 1)
        cut = space + 1 if space > 0 else end
        rows.append(line[:cut].rstrip(" "))
        line = line[cut:]
    return rows, line


def _fitting(line: str, width: int) -> int:
    """How many characters of the line fit into the width; at least one."""
    cells = 0
    for number, character in enumerate(line):
        cells += cell_len(character)
        if cells > width:
            return max(1, number)
    return len(line)
