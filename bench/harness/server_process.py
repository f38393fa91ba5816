"""Runs `tokentape serve` as a process: starts it on a free port, waits until it is ready, stops it.

Owns the settings that every measured server has; it must not know what is measured.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness.child_process import ROOT
from bench.harness.git_revision import PRESENT, Revision

START_SECONDS, STOP_SECONDS = 60.0, 20.0
LISTENING = re.compile(rb"serving on\W+http://127\.0\.0\.1:(\d+)|\"url\": ?\"http://127\.0\.0\.1:(\d+)\"")

SETTINGS_IF_KNOWN = {
    # All clients of a benchmark come from this machine.
    "TOKENTAPE_MAX_CONNECTIONS_PER_ADDRESS": "100000",
}
"""Settings that are set only if the revision has them."""

NO_PROXY = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # ignores the proxy that the shell may have set


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready. `authorization`: the header that it asks of clients; empty for none."""

    port: int
    pid: int
    authorization: str = ""

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"


class ServerFailed(Exception):
    """The server did not start. The message is its log."""


@contextmanager
def serving(
    database_url: str, env: Mapping[str, str] | None = None, revision: Revision = PRESENT
) -> Iterator[Server]:
    """Runs a server while the context lasts. It gets SIGTERM at the end, and SIGKILL if it does not stop."""
    configuring = (
        "TOKENTAPE_",
        "OPENAI_",
        "ANTHROPIC_",
    )  # the result must not depend on the environment of whoever measures
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(configuring) and not name.lower().endswith("_proxy")
    }
    settings = {
        "TOKENTAPE_BIND": "127.0.0.1:0",
        "TOKENTAPE_DATABASE_URL": database_url,
        "TOKENTAPE_LOG_FORMAT": "json",
        "TOKENTAPE_MAX_RUNS": "10000",
        "TOKENTAPE_MAX_STREAMS": "100000",
        "TOKENTAPE_STOP_TIMEOUT": "5",
        "PYTHONPATH": str(revision.folder),  # found before the installed package, which is this checkout
        **{name: value for name, value in SETTINGS_IF_KNOWN.items() if revision.knows(name)},
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            # Run by its path and with -P: the launcher is this checkout's, and all that it imports is the
            # revision's.
            [sys.executable, "-P", str(ROOT / "bench" / "processes" / "server_launcher.py"), "serve"],
            env={**clean, **settings, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=revision.folder,
            process_group=0,
        )
        try:
            yield Server(_ready(process, log.fileno()), process.pid)
        except BaseException:
            # A benchmark that is stopped does not wait for the server's drain: the database is dropped as well.
            process.kill()
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: "subprocess.Popen[bytes]", log: int) -> int:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        log_text = os.pread(log, 1_000_000, 0)
        if process.poll() is not None:
            raise ServerFailed(log_text.decode(errors="replace")[-5_000:])
        found = LISTENING.search(log_text)
        if found is not None:
            port = int(found[1] or found[2])
            try:
                with NO_PROXY.open(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    return port
            except urllib.error.URLError:
                pass  # not ready yet
        time.sleep(0.05)
    raise ServerFailed(f"not ready within {START_SECONDS} s:\n{os.pread(log, 5_000, 0).decode(errors='replace')}")
