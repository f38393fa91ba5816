"""Started in the background by a script, where the shell has SIGINT ignored: the tests, and the server itself."""

import signal
import subprocess
import sys
from pathlib import Path

import trio

from tests.conftest import postgres_folder
from tests.harness.servers import ROOT, Server, free_port

SHOW = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"


def in_background(*words: str) -> list[str]:
    """The command as `words &` in a script starts it."""
    return ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *words]


def test_what_tests_start_hears_sigint() -> None:
    """A child of a process that runs tests, for which alone SIGINT is ignored no more."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    for before, ignored in (("", "True"), ("import tests.conftest; ", "False")):
        done = subprocess.run(
            in_background(sys.executable, "-c", before + child),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.strip() == ignored


async def test_a_server_in_the_background_stops_by_sigterm_with_its_database(tmp_path: Path) -> None:
    """SIGTERM stops it, and its PostgreSQL still hears the SIGINT by which it is told to stop."""
    with postgres_folder(tmp_path, "background") as folder:
        server = Server(
            None, {"TOKENTAPE_DATA_DIR": str(folder)}, free_port(), program=in_background(sys.executable)
        )
        try:
            await server.start()
            server.send_signal(signal.SIGTERM)
            assert server.process is not None
            with trio.fail_after(30):
                assert await trio.to_thread.run_sync(server.process.wait, abandon_on_cancel=True) == 0
            assert not list(folder.rglob("postmaster.pid"))
            assert "takes long to stop" not in server.logged()
        finally:
            if server.process is not None:
                server.process.kill()
                server.process.wait()
            server.log.close()
