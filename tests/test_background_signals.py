"""SIGINT in processes that a script starts in the background, where the shell has it ignored."""

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


def test_children_of_the_tests_receive_sigint() -> None:
    """Importing tests.conftest undoes the ignored SIGINT for child processes."""
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


async def test_background_server_stops_by_sigterm_with_its_database(tmp_path: Path) -> None:
    """Its PostgreSQL must receive the SIGINT by which it is told to stop."""
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
