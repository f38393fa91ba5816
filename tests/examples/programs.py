"""Programs of the examples, as somebody starts them: told and heard by lines, and ended with their context."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import trio

from tests.harness.servers import ROOT

PHP, NODE = shutil.which("php"), shutil.which("node")
NO_PHP = "PHP is not installed (tools/test-needs installs php-cli as root)"
NO_NODE = "node is not installed (tools/test-needs installs it as root)"
PATIENCE = 40.0


class Program:
    """One that runs."""

    def __init__(self, process: "subprocess.Popen[str]", errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    def write(self, line: str) -> None:
        """A line of input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def line_now(self) -> str:
        """The next line of output; blocks."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the program has ended:\n{self.errors()}"
        print(line, end="")  # noqa: T201  # pytest shows it with a failure
        return line

    async def line(self) -> str:
        """The next line of output."""
        with trio.fail_after(PATIENCE):
            return await trio.to_thread.run_sync(self.line_now, abandon_on_cancel=True)

    async def hear(self, text: str) -> str:
        """The next line that has this text; those before it are passed by."""
        while text not in (line := await self.line()):
            continue
        return line

    async def ended(self) -> int:
        """Its exit status, when it has ended by itself; its input is closed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with trio.fail_after(PATIENCE):
            return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    def rest(self) -> str:
        """The output that was not read; for one that has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def errors(self) -> str:
        """What it wrote to standard error."""
        return os.pread(self._errors.fileno(), 1_000_000, 0).decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self._process.kill()
        self._process.wait()


@contextmanager
def starting(command: Sequence[str], env: Mapping[str, str], *, cwd: Path = ROOT) -> Iterator[Program]:
    """A program, with these variables beside the environment's own ones that are not about Tokentape."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("TOKENTAPE_")}
    with TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=own | dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        program = Program(process, errors)
        try:
            yield program
        except BaseException:
            print(program.errors())  # noqa: T201  # pytest shows it with the failure
            raise
        finally:
            program.kill()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
