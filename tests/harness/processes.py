"""Processes of `python -m MODULE …` for tests, forked off a process that has the imports done.

`start` is what `subprocess.Popen` is, for modules of this repository. Each process that runs tests has one fork
server (`tests.harness.fork_server`), started with the first request. What a fork cannot give, as another locale,
another `PYTHON…` variable or another interpreter, gets a fresh interpreter. So does everything while
`TOKENTAPE_TESTS_FORK=0` is set.

A request is one message: JSON with `arguments` (the module first), `env`, `controls_terminal`, and with it four
descriptors: standard input, output and error, and a pipe. The answer is the process id, with a pidfd. The exit
status (negative: the signal) is written to the pipe when the process has ended.
"""

import atexit
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[2]
_READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "COVERAGE_", "OPENSSL_")
"""Variables that a process reads before it runs any module: a copy has the fork server's."""


class ForkedProcess:
    """A process that the fork server made. Its methods are those of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], pid: int, pidfd: int, status_pipe: int) -> None:
        self.args = arguments
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._status_pipe = status_pipe
        self._lock = threading.Lock()  # a test polls while one of its threads waits

    def poll(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Blocks until the process has ended; its exit status. Raises `subprocess.TimeoutExpired`."""
        status = self._look(None if timeout is None else timeout * 1000)
        if status is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Signals the process; does nothing when it has ended."""
        with self._lock:
            if self.returncode is None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, milliseconds: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        ended = select.poll()
        ended.register(self._status_pipe, select.POLLIN)
        if not ended.poll(milliseconds):
            return None
        with self._lock:
            if self.returncode is None:
                status = os.read(self._status_pipe, 16)
                assert status, "the fork server has ended before its processes"
                self.returncode = int(status)
        return self.returncode

    def __del__(self) -> None:
        os.close(self._status_pipe)  # not before: another thread may be about to wait on it
        os.close(self._pidfd)


Process: TypeAlias = subprocess.Popen[bytes] | ForkedProcess


class ForkServer:
    """A fork server, seen from its client. It ends with the client, and what it forked ends with it."""

    def __init__(self) -> None:
        self.env = dict(os.environ)
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.harness.fork_server", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.env, pass_fds=[theirs.fileno()])

    def fork(
        self, arguments: Sequence[str], env: Mapping[str, str], streams: Sequence[int], controls_terminal: bool
    ) -> ForkedProcess:
        """Asks for one process. `streams` are its standard input, output and error."""
        request = {"arguments": [*arguments], "env": dict(env), "controls_terminal": controls_terminal}
        status_pipe, theirs = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [*streams, theirs])
                answer, descriptors, _, _ = socket.recv_fds(self._socket, 100, 1)
        finally:
            os.close(theirs)
        assert answer, "the fork server has ended"
        os.set_inheritable(descriptors[0], False)
        return ForkedProcess(arguments, int(answer), descriptors[0], status_pipe)

    def close(self) -> None:
        """Ends it, and what it made and what still runs."""
        self._socket.close()
        self._process.wait()


_fork_server: ForkServer | None = None
_starting = threading.Lock()


def start(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
    stdout: int,
    stderr: int,
    controls_terminal: bool = False,
    fresh: bool = False,
) -> Process:
    """Starts `python -m` with `arguments`, the module first, in the repository's root.

    `env` is its whole environment. The standard streams are descriptors, which stay the caller's to close.
    With `controls_terminal` the process leads a session whose terminal is its standard input. With `fresh` it is a
    new interpreter in any case, where a test is about a program's start.
    """
    if fresh or _needs_interpreter(env):
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=ROOT,
            preexec_fn=_take_terminal if controls_terminal else None,
        )
    if stdin != subprocess.DEVNULL:
        return _forking().fork(arguments, env, [stdin, stdout, stderr], controls_terminal)
    with open(os.devnull, "rb") as nothing:
        return _forking().fork(arguments, env, [nothing.fileno(), stdout, stderr], controls_terminal)


def _needs_interpreter(env: Mapping[str, str]) -> bool:
    if os.environ.get("TOKENTAPE_TESTS_FORK") == "0":
        return True
    return _fixed(env) != _fixed(os.environ if _fork_server is None else _fork_server.env)


def _fixed(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in env.items()
        if name.startswith(_READ_AT_START) and name != "PYTHONUNBUFFERED"
    }


def _forking() -> ForkServer:
    global _fork_server
    with _starting:
        if _fork_server is None:
            _fork_server = ForkServer()
            atexit.register(_fork_server.close)
        return _fork_server


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
