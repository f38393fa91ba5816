"""A child process of `bench.processes`, as the measuring process sees it.

Owns its start, the commands to it, the answers from it (JSON lines on its standard input and output) and its end.
It must not know what the commands mean.
"""

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


class ChildProcessFailed(Exception):
    """A child process ended, or sent no answer for too long. Its standard error says why."""


class ChildProcess:
    """One process that runs a module of `bench.processes`."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"bench.processes.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            # A group of its own: Ctrl-C reaches only the measuring process, which ends its children in order.
            process_group=0,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._receive_answers, daemon=True).start()
        self.pid = self._process.pid

    def send(self, **command: Any) -> None:
        """Sends a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any]:
        """Returns the next answer. Raises `ChildProcessFailed` when none comes within `seconds`."""
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise ChildProcessFailed(f"{self._module} was silent for {seconds} s") from None
        if answer is None:
            raise ChildProcessFailed(f"{self._module} ended with status {self._process.wait()}")
        return answer

    def wait_for(self, field: str, seconds: float) -> dict[str, Any]:
        """Returns the next answer that has `field`. Raises `ChildProcessFailed` after `seconds` of silence."""
        while field not in (answer := self.receive(seconds)):
            continue
        return answer

    def close(self, seconds: float = END_SECONDS) -> None:
        """Ends the process's input and waits for its end; kills it if it still runs after `seconds`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the process has ended already
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive_answers(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(msgspec.json.decode(line, type=dict[str, Any]))
        self._answers.put(None)


@contextmanager
def child_process(module: str, *arguments: str, end_seconds: float = END_SECONDS) -> Iterator[ChildProcess]:
    """A child process for as long as the context lasts."""
    child = ChildProcess(module, *arguments)
    try:
        yield child
    finally:
        child.close(end_seconds)
