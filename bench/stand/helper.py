"""A helper process, as the measuring process sees it: commands to it, answers from it, its end."""

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
END_SECONDS = 5.0


class HelperFailed(Exception):
    """A helper ended, or was silent for too long. Its words on standard error say why."""


class Helper:
    """One process of `bench.processes`."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"bench.processes.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            process_group=0,  # Ctrl-C is ours: we end it, in order
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.pid = self._process.pid

    def tell(self, **command: Any) -> None:
        """Sends a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next answer. Raises `HelperFailed` when none comes."""
        try:
            found = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise HelperFailed(f"{self._module} was silent for {seconds} s") from None
        if found is None:
            raise HelperFailed(f"{self._module} ended with status {self._process.wait()}")
        return found

    def until(self, field: str, seconds: float) -> dict[str, Any]:
        """The next answer that has a field."""
        while field not in (found := self.answer(seconds)):
            continue
        return found

    def close(self, seconds: float = END_SECONDS) -> None:
        """Ends its input, waits, and kills it if that does not help."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone already
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(msgspec.json.decode(line, type=dict[str, Any]))
        self._answers.put(None)


@contextmanager
def helper(module: str, *arguments: str, end_seconds: float = END_SECONDS) -> Iterator[Helper]:
    """A helper for as long as the context lasts."""
    found = Helper(module, *arguments)
    try:
        yield found
    finally:
        found.close(end_seconds)
