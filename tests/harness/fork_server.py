"""A process that has imported Tokentape once and forks a copy of itself for each command that a test starts.

A fresh interpreter spends a second of CPU on imports; a copy spends milliseconds. The copy is a process like any:
it has its own environment, standard streams, signals and exit status. Where a module returns or calls `sys.exit`
with a number, the copy ends without taking the interpreter apart, which would cost ten times what the fork costs:
it waits for its threads, calls what `atexit` knows, collects garbage, so that what is left open is still
complained of, and flushes its streams. Every other end is the interpreter's own.

    python -m tests.harness.fork_server DESCRIPTOR

The descriptor is one end of a SOCK_SEQPACKET pair. `tests.harness.processes` holds the opposite end and documents
what a request says. This file owns the copies: it makes them, waits for them, and kills them when its client has
ended.
"""

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from server.cli.main import COMMANDS

LARGEST_REQUEST = 1_000_000
PRELOADED = (
    *(f"server.cli.{command}" for command in COMMANDS),
    "server.embedded_postgres",
    "server.process.lifecycle",
    "migrations.runner",
    "httptools",
)
"""Never `readline`: on import it reads the terminal's name, which is each copy's own."""


def main() -> None:
    """Forks until the client has closed its end. Returns in the server; in a copy, runs its module instead."""
    client = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    # A Ctrl-C at the terminal is for the tests; they end what they started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    module = _serve(client)
    if module is not None:
        _end(_status_of(module))


def _status_of(module: str) -> int:
    """Runs it; the exit status that it asks for. An end that says more is left to the interpreter."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None:
            return 0
        if not isinstance(end.code, int):
            raise
        return end.code
    return 0


def _end(status: int) -> NoReturn:
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
    atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe or stream: the interpreter says so, and ends with 120
            sys.exit(status)
    os._exit(status & 0xFF)


def _serve(client: socket.socket) -> str | None:
    """Serves requests. None in the server, when the client has gone; in a copy, the name of the module to run."""
    running: dict[int, tuple[int, int]] = {}  # by pidfd: the process id, and where its exit status is written
    poll = select.poll()
    poll.register(client, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != client.fileno():
                poll.unregister(ready)
                _report_end(ready, *running.pop(ready))
                continue
            data, descriptors, _, _ = socket.recv_fds(client, LARGEST_REQUEST, 4)
            if not data:
                for pidfd, (pid, status_pipe) in running.items():
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    _report_end(pidfd, pid, status_pipe)
                return None
            *streams, status_pipe = descriptors
            pid = os.fork()
            if pid == 0:
                client.detach()
                return _become(json.loads(data), streams)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, status_pipe
            poll.register(pidfd, select.POLLIN)
            socket.send_fds(client, [str(pid).encode()], [pidfd])
            for stream in streams:
                os.close(stream)


def _report_end(pidfd: int, pid: int, status_pipe: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with suppress(BrokenPipeError):  # the test has no interest in it
        os.write(status_pipe, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(status_pipe)


def _become(request: dict[str, Any], streams: list[int]) -> str:
    """Makes this copy what a fresh interpreter would be; the name of the module to run."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if request["controls_terminal"]:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    _open_streams()
    module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    return str(module)


def _open_streams() -> None:
    """New standard streams on the new descriptors, as Python's start makes them."""
    sys.stdin = sys.__stdin__ = _stream(0, sys.stdin)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, sys.stderr)  # type: ignore[misc]


def _stream(descriptor: int, former: Any) -> io.TextIOWrapper:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    binary: Any
    if descriptor == 0:
        binary = open(descriptor, "rb", closefd=False)  # noqa: SIM115
    else:
        binary = open(descriptor, "wb", buffering=0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        binary,
        former.encoding,
        former.errors,
        newline=None if descriptor == 0 else "\n",
        line_buffering=not unbuffered and (descriptor == 2 or binary.isatty()),
        write_through=unbuffered,
    )


if __name__ == "__main__":
    main()
