"""The wheel: everything a server needs is in it, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.harness.servers import ROOT

NEEDED = {
    "eventstore/postgres/statements.sql",
    "migrations/env.py",
    "migrations/sql/0001_event_log.up.sql",
    "migrations/sql/0001_event_log.down.sql",
    "migrations/versions/0001_event_log.py",
    "server/embedded/roles.sql",
    "server/cli/main.py",
    "tokentape/__init__.py",
    "tokentape/py.typed",
    "server/py.typed",
    "eventstore/py.typed",
}


def test_the_wheel_ships_the_migrations(tmp_path: Path) -> None:
    """Built as a release is, from the tree; its command is `tokentape`, its packages are the four."""
    words = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        ".",
    ]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, timeout=60, capture_output=True)
    (wheel,) = tmp_path.glob("tokentape-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        info = next(name for name in names if name.endswith("entry_points.txt"))
        assert "tokentape = server.cli:main" in opened.read(info).decode()
    assert names >= NEEDED
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "server",
        "eventstore",
        "migrations",
        "tokentape",
    }
