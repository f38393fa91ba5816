"""Fixtures: a place that PostgreSQL's user can reach, a ready-made database to copy, and processes that hold it.

Owns cleaning up: whatever ran inside the place is ended by its pid. A fresh initdb costs a second, so most tests
take turns with one database; it runs without fsync, as nothing here pulls a plug.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from server.embedded import acquire
from server.embedded.account import acting_account
from server.embedded.socket_folder import claim, discard

from .watching import kill, postgres_of

REPOSITORY = Path(__file__).resolve().parents[2]
FAST = {"fsync": "off"}


def query(url: str, sql: str, bin_dir: Path) -> str:
    """What psql prints for `sql`, without decoration. Fails the test with psql's words when it refuses."""
    done = subprocess.run(
        [bin_dir / "psql", "-X", "-w", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Holder:
    """A process that holds the embedded PostgreSQL (holder.py). As a context manager it is killed at the end."""

    def __init__(
        self,
        data_dir: Path,
        settings: Mapping[str, str],
        *,
        python: str = sys.executable,
        path: Sequence[Path] = (REPOSITORY,),
        user: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        script = path[-1] / "tests" / "embedded" / "holder.py"
        self.process = subprocess.Popen(
            [*prefix, python, "-W", "error", script, data_dir, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, path))},
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def heard(self, key: str) -> Any:
        """Reads on until it says `key`, and returns what it said about it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if key in said:
                return said[key]
            assert "refused" not in said, said
        raise AssertionError(f"the holder ended without a word of {key!r}")

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("release\n")
        self.process.stdin.flush()
        assert self.heard("released") is True

    def kill(self) -> None:
        with self.process:
            self.process.kill()


@pytest.fixture
def ground() -> Iterator[Path]:
    """An empty folder that any user can enter (pytest's tmp_path is private)."""
    with reachable_folder() as place:
        yield place


@pytest.fixture(scope="session")
def shelf() -> Iterator[Path]:
    with reachable_folder() as place:
        yield place


@pytest.fixture
def data_dir(shelf: Path) -> Iterator[Path]:
    """A data folder with a database stopped in good order; the next test gets it too, if it is left like that."""
    data = shelf / "data"
    if not data.exists():
        acquire(data, settings=FAST).release()
    yield data
    if end_all(shelf) or (data / "postgres" / "postmaster.pid").exists():
        shutil.rmtree(data)


@pytest.fixture
def copied(data_dir: Path, ground: Path) -> Path:
    """A copy of `data_dir`, to be damaged."""
    subprocess.run(["cp", "-a", "--sparse=always", data_dir, ground / "data"], check=True)
    return ground / "data"


@contextmanager
def reachable_folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="embedded-")).resolve()
    place.chmod(0o755)
    try:
        yield place
    finally:
        end_all(place)
        shutil.rmtree(place)


def end_all(place: Path) -> bool:
    """Kills each PostgreSQL that runs below `place` and takes its socket away. True if there was one."""
    ended = postgres_of(place)
    for pid in ended:
        kill(pid)
    for lock in place.rglob("users.lock"):
        discard(claim(lock.parent, acting_account()))
    return bool(ended)
