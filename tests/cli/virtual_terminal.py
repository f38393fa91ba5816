"""A pseudo-terminal that runs a command and draws its output as a person would see it.

It knows the control sequences that our commands use (ECMA-48: cursor, erasing, colours) and fails on any other,
so that no escape sequence of an answer can pass unnoticed.
"""

import fcntl
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from tests.cli.command_runner import clean_environment
from tests.harness.processes import Process, start

ROWS, COLUMNS = 30, 100
_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")
_HARMLESS = {"m", "h", "l"}


class Screen:
    """What was drawn. `lines` holds everything, also what has scrolled off."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self._row = 0
        self._column = 0
        self._rest = ""

    @property
    def text(self) -> str:
        """All rows, without the spaces at their ends."""
        return "\n".join("".join(line).rstrip() for line in self.lines)

    @property
    def squeezed(self) -> str:
        """The same without any space: rows end where the terminal is narrow."""
        return "".join(self.text.split())

    def feed(self, text: str) -> None:
        """Draws."""
        text = self._rest + text
        self._rest = ""
        place = 0
        while place < len(text):
            character = text[place]
            if character == "\x1b":
                found = _SEQUENCE.match(text, place)
                if found is None:
                    if len(text) - place > 20:
                        raise AssertionError(f"not ours: {text[place : place + 20]!r}")
                    self._rest = text[place:]
                    return
                self._obey(found[3], found[2], private=bool(found[1]))
                place = found.end()
                continue
            self._put(character)
            place += 1

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character == "\a":
            pass  # readline's bell
        elif ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0:
            raise AssertionError(f"a control character reached the terminal: {character!r}")
        else:
            if self._column == COLUMNS:
                self._column = 0
                self._down()
            line = self.lines[self._row]
            line += " " * (self._column + 1 - len(line))
            line[self._column] = character
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append([])

    def _obey(self, letter: str, numbers: str, *, private: bool) -> None:
        number = int(numbers or 1) if numbers.isdigit() or not numbers else 0
        line = self.lines[self._row]
        if letter in _HARMLESS:
            return
        assert not private
        if letter == "A":
            # No further up than the screen shows: what has scrolled off can be drawn no more.
            self._row = max(self._row - number, len(self.lines) - ROWS, 0)
        elif letter == "B":
            self._row = min(self._row + number, len(self.lines) - 1)
        elif letter == "C":
            self._column = min(self._column + number, COLUMNS - 1)
        elif letter == "D":
            self._column = max(self._column - number, 0)
        elif letter == "K":
            if numbers == "2":
                line.clear()
            else:
                del line[self._column :]
        elif letter == "J":
            del line[self._column :]
            del self.lines[self._row + 1 :]
        elif letter == "P":
            del line[self._column : self._column + number]
        else:
            raise AssertionError(f"not known to this terminal: {numbers}{letter}")


class Terminal:
    """A command on a terminal. `raw` is every byte it wrote."""

    def __init__(self, process: Process, master: int) -> None:
        self._process = process
        self._master = master
        self.raw = b""
        self.screen = Screen()
        self._undecoded = b""

    async def until(self, words: str, seconds: float = 40) -> None:
        """Waits until the screen shows these words, wherever its rows end."""
        wanted = "".join(words.split())
        with trio.move_on_after(seconds):
            while wanted not in self.screen.squeezed:
                if not await self.read():
                    break
        assert wanted in self.screen.squeezed, f"{words!r} is not in:\n{self.screen.text}"

    async def prompted(self, seconds: float = 40) -> None:
        """Waits until the last row is a prompt: before it the terminal itself reads lines, and loses a Ctrl-D."""
        with trio.fail_after(seconds):
            while not self.screen.text.rstrip().endswith("›"):
                assert await self.read(), f"no prompt in:\n{self.screen.text}"

    async def end(self, seconds: float = 40) -> int:
        """Reads to the end; the exit status."""
        with trio.fail_after(seconds):
            while await self.read():
                pass
            return await trio.to_thread.run_sync(self._process.wait)

    def type(self, keys: str) -> None:
        """As on a keyboard; `\\x03` is Ctrl-C, `\\x04` Ctrl-D."""
        os.write(self._master, keys.encode())

    def send_signal(self, number: signal.Signals) -> None:
        """To the process alone."""
        self._process.send_signal(number)

    async def read(self) -> bool:
        """What has come, drawn; False at the end."""
        await trio.lowlevel.wait_readable(self._master)
        try:
            got = os.read(self._master, 65_536)
        except OSError:  # EIO: the other side is closed
            return False
        self.raw += got
        whole = self._undecoded + got
        text = whole.decode(errors="ignore")
        self._undecoded = whole[len(text.encode()) :]
        self.screen.feed(text)
        return bool(got)


@asynccontextmanager
async def on_terminal(*words: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Terminal]:
    """`tokentape …` on a terminal of its own; killed at the end if it still runs."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = start(
        ["server", *words],
        env={**clean_environment(), "TERM": "xterm-256color", "INPUTRC": "/dev/null", **(env or {})},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        controls_terminal=True,
    )
    os.close(slave)
    os.set_blocking(master, False)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
