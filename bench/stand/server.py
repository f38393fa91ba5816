"""`tokentape serve` as a process: started on a free port, ready, stopped."""

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

from bench.stand.helper import ROOT
from bench.stand.revision import PRESENT, Revision

START_SECONDS, STOP_SECONDS = 60.0, 20.0
LISTENING = re.compile(rb"serving on\W+http://127\.0\.0\.1:(\d+)|\"url\": ?\"http://127\.0\.0\.1:(\d+)\"")

IF_KNOWN = {
    # All clients of a benchmark come from this machine.
    "TOKENTAPE_MAX_CONNECTIONS_PER_ADDRESS": "100000",
}
"""Settings that a former revision may not have."""

DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the shell has set


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


class ServerFailed(Exception):
    """The server did not come up. Its log is the message."""


@contextmanager
def serving(
    database_url: str, env: Mapping[str, str] | None = None, revision: Revision = PRESENT
) -> Iterator[Server]:
    """A server process for as long as the context; SIGTERM at its end, and SIGKILL if that does not help."""
    strange = ("TOKENTAPE_", "OPENAI_", "ANTHROPIC_")  # what is measured does not depend on who measures it
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(strange) and not name.lower().endswith("_proxy")
    }
    settings = {
        "TOKENTAPE_BIND": "127.0.0.1:0",
        "TOKENTAPE_DATABASE_URL": database_url,
        "TOKENTAPE_LOG_FORMAT": "json",
        "TOKENTAPE_MAX_RUNS": "10000",
        "TOKENTAPE_MAX_STREAMS": "100000",
        "TOKENTAPE_STOP_TIMEOUT": "5",
        "PYTHONPATH": str(revision.folder),  # before what is installed, which is this checkout
        **{name: value for name, value in IF_KNOWN.items() if revision.knows(name)},
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            # By its path, and -P: the launcher is this checkout's, all that it imports the revision's.
            [sys.executable, "-P", str(ROOT / "bench" / "processes" / "launch.py"), "serve"],
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
            process.kill()  # whoever stops a benchmark does not wait for its drain; the database goes too
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
        words = os.pread(log, 1_000_000, 0)
        if process.poll() is not None:
            raise ServerFailed(words.decode(errors="replace")[-5_000:])
        found = LISTENING.search(words)
        if found is not None:
            port = int(found[1] or found[2])
            try:
                with DIRECTLY.open(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    return port
            except urllib.error.URLError:
                pass  # not yet
        time.sleep(0.05)
    raise ServerFailed(f"not ready within {START_SECONDS} s:\n{os.pread(log, 5_000, 0).decode(errors='replace')}")
