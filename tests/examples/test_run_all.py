"""`make examples`: in the background, through its end, and where it cannot start."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import psutil
import pytest
import trio

from examples.run_all import APPS, EXAMPLES, find_trouble
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import ROOT, free_port
from tests.test_background_signals import in_background

PROGRAM = [sys.executable, str(EXAMPLES / "run_all.py")]


def test_every_app_is_named() -> None:
    """On the index page, in the README, and with the folders that are there."""
    index = (EXAMPLES / "index.html").read_text(encoding="utf-8")
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r'href="(\w+)/page.html"', index) == [*APPS]
    assert re.findall(r"^\| \[(\w+)\]\(\1\)", readme, re.MULTILINE) == [*APPS]
    assert {folder.parent.name for folder in EXAMPLES.glob("*/app.py")} <= {*APPS}


class Examples:
    """`make examples` on free ports."""

    def __init__(self, database: TestDatabase, log: IO[bytes], *arguments: str) -> None:
        self.port, self.pages_port = free_port(), free_port()
        ports = ["--port", str(self.port), "--pages-port", str(self.pages_port)]
        # The shell ignores SIGINT for what a script starts in the background.
        self.process = subprocess.Popen(
            in_background(*PROGRAM, *(arguments or ports)),
            env={"PATH": "/usr/bin:/bin", "TOKENTAPE_DATABASE_URL": database.app_url},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        self._log = log

    def logged(self) -> str:
        """All that was printed."""
        self._log.seek(0)
        return self._log.read().decode()

    async def opened(self) -> str:
        """The address that it tells people to open."""
        with trio.fail_after(60):
            while not (found := re.search(r"examples: open (\S+)", self.logged())):
                assert self.process.poll() is None, self.logged()
                await trio.sleep(0.05)
        return found[1]

    async def ended(self) -> int:
        """Its exit status, when both ports are free again."""
        with trio.fail_after(30):
            status = await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
            while find_trouble(self.port) or find_trouble(self.pages_port):
                await trio.sleep(0.05)
        return status


@contextmanager
def examples(database: TestDatabase, *arguments: str) -> Iterator[Examples]:
    """Started, and ended with the context."""
    with tempfile.TemporaryFile() as log:
        started = Examples(database, log, *arguments)
        try:
            yield started
        finally:
            started.process.kill()  # the kernel ends its server
            started.process.wait()


async def test_in_the_background_until_sigterm(database: TestDatabase) -> None:
    """The pages and the workflows are there; SIGTERM ends both, and that is no failure."""
    with examples(database) as started:
        address = await started.opened()
        async with http_client() as client:
            page = await client.get(address)
            assert "<h1>Six apps on one log</h1>" in page.text
            script = await client.get(f"http://127.0.0.1:{started.pages_port}/tape.js")
            assert f'SERVERS = ["http://127.0.0.1:{started.port}"];' in script.text
            body = {"workflow": "service_bot", "input": {"text": "It is dented.", "order": "7"}}
            origin = {"Origin": f"http://127.0.0.1:{started.pages_port}"}
            run = await client.post(f"http://127.0.0.1:{started.port}/v1/generations", json=body, headers=origin)
            assert run.status_code == 202, run.text
        started.process.send_signal(signal.SIGINT)  # ignored, as the shell wants it
        started.process.send_signal(signal.SIGTERM)
        assert await started.ended() == 0


async def test_a_killed_one_leaves_no_server(database: TestDatabase) -> None:
    with examples(database) as started:
        await started.opened()
        started.process.kill()
        assert await started.ended() == -signal.SIGKILL


async def test_a_server_that_ends_is_told(database: TestDatabase) -> None:
    with examples(database) as started:
        await started.opened()
        (server,) = psutil.Process(started.process.pid).children()
        server.kill()
        assert await started.ended() == 1
        assert "examples: the server has ended" in started.logged()


@pytest.mark.parametrize("option", ["--port", "--pages-port"])
def test_a_taken_port_is_told(database: TestDatabase, option: str) -> None:
    """Which one, and what to do; nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other_option = "--pages-port" if option == "--port" else "--port"
        with examples(database, option, str(port), other_option, str(free_port())) as started:
            assert started.process.wait(20) == 1
            assert started.logged() == (
                f"examples: port {port} of 127.0.0.1 is taken. End what listens there, or take another port: "
                f'make examples ARGS="{option} {port + 10}"\n'
            )
