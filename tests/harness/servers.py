"""Real `tokentape serve` processes that are started, waited for, killed and stopped; each ends with its context.

At the end of each, its log is searched for credentials.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

import httpx2
import trio

from tests.harness import credentials_in_logs
from tests.harness.http import http_client
from tests.harness.processes import ROOT as ROOT
from tests.harness.processes import Process, start

START_SECONDS = 30.0
STOP_SECONDS = 30.0
INTERPRETER = (sys.executable,)
"""`Server.program` for a server that starts as a person's does, with all of its imports to do."""


@dataclass(eq=False)
class Server:
    """One server process. `port` stays the same over `start`s, so clients find it again."""

    database_url: str | None
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    process: Process | None = None
    log: IO[bytes] = field(default_factory=lambda: tempfile.TemporaryFile())  # noqa: SIM115  # closed by running()
    program: Sequence[str] | None = None
    """The interpreter, where a test is about a program's start. By default the server is forked, not started."""
    arguments: Sequence[str] = ("server", "serve")
    """The module to run, and its arguments."""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The same for WebSockets."""
        return f"ws{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return bool({"TOKENTAPE_TLS", "TOKENTAPE_CERTFILE"} & set(self.env))

    async def start(self) -> None:
        """Starts it and waits until it is ready."""
        ours = ("TOKENTAPE_", "OPENAI_", "ANTHROPIC_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        if self.database_url is not None:
            env["TOKENTAPE_DATABASE_URL"] = self.database_url
        if self.port == 0:
            self.port = free_port()
        env |= {"TOKENTAPE_BIND": f"127.0.0.1:{self.port}", "TOKENTAPE_LOG_FORMAT": "json", **self.env}
        log = self.log.fileno()
        if self.program is None:
            self.process = start(self.arguments, env=env, stdout=log, stderr=log)
        else:
            command = [*self.program, "-m", *self.arguments]
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=ROOT)
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Until `/readyz` says yes; fails with the log when the process ends first."""
        async with http_client() as client:
            with trio.fail_after(START_SECONDS):
                while True:
                    assert self.process is not None
                    if self.process.poll() is not None:
                        raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.logged()}")
                    try:
                        if (await client.get(f"{self.url}/readyz")).status_code == 200:
                            return
                    except httpx2.TransportError:
                        pass
                    await trio.sleep(0.02)

    def logged(self) -> str:
        """All it has written so far."""
        return os.pread(self.log.fileno(), 50_000_000, 0).decode(errors="replace")

    def log_lines(self) -> list[dict[str, object]]:
        """Its JSON log lines."""
        return [json.loads(line) for line in self.logged().splitlines() if line.startswith("{")]

    def check_log(self) -> None:
        """Fails if a line that it wrote holds a credential."""
        credentials_in_logs.check(self.logged(), "a server's log")

    async def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, and waits for the end; the exit status."""
        return await self._end(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Any signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def _end(self, number: int) -> int:
        process = self.process
        assert process is not None
        process.send_signal(number)
        status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        self.process = None
        return status


@asynccontextmanager
async def running(
    database_url: str | None,
    env: Mapping[str, str] | None = None,
    *,
    port: int = 0,
    program: Sequence[str] | None = None,
) -> AsyncIterator[Server]:
    """A server that is ready; ended at the end if it still runs.

    One with its own database is asked to stop, and takes that along; killed, it would leave it running.
    """
    server = Server(database_url, env or {}, port, program=program)
    try:
        await server.start()
        yield server
        server.check_log()
    except BaseException:
        if server.process is not None:
            with suppress(subprocess.TimeoutExpired):  # one that is just crashing has its last words to say
                server.process.wait(2)
        print(server.logged()[-20_000:])  # noqa: T201  # pytest shows it with the failure
        raise
    finally:
        if server.process is not None and database_url is None:
            server.process.terminate()
            with trio.CancelScope(shield=True), suppress(subprocess.TimeoutExpired):
                await trio.to_thread.run_sync(server.process.wait, STOP_SECONDS)
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        server.log.close()


def free_port() -> int:
    """A port that nobody listens on right now."""
    import socket

    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
