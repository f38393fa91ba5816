"""The wheel has everything that a server needs, and nothing else."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

from tests.harness.servers import ROOT

NEEDED = {
    "eventstore/postgres/statements.sql",
    "migrations/env.py",
    "migrations/sql/0001_event_log.up.sql",
    "migrations/sql/0001_event_log.down.sql",
    "migrations/versions/0001_event_log.py",
    "server/embedded_postgres/roles.sql",
    "server/cli/main.py",
    "tokentape/__init__.py",
    "tokentape_packages.py",
    "tokentape/py.typed",
    "server/py.typed",
    "eventstore/py.typed",
}


def test_wheel_contents(tmp_path: Path) -> None:
    """Built from the tree as a release is: the command `tokentape`, four packages, and the module it starts in."""
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
        assert "tokentape = tokentape_packages:main" in opened.read(info).decode()
        metadata = Parser().parsestr(opened.read(info.replace("entry_points.txt", "METADATA")).decode())
    assert names >= NEEDED
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "server",
        "eventstore",
        "migrations",
        "tokentape",
        "tokentape_packages.py",
    }
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    for package, extra in {"embedded-postgres": "embedded", "trustme": "tls"}.items():
        (found,) = [one for one in needed if one.name == package]
        assert found.marker is not None
        assert found.marker.evaluate({"extra": extra})
        assert not found.marker.evaluate({"extra": ""}), f"{package} is installed without being asked for"
