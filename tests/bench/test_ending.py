"""However a benchmark ends, everything that it started ends too."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.stand.helper import Helper, HelperFailed
from bench.stand.proc import descendants

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "bench", "load", "--generations", "2", "--seconds", "60"]


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def commands(pids: list[int]) -> list[str]:
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or before it was read
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(number: signal.Signals, tmp_path: Path) -> None:
    folders = set(Path(tempfile.gettempdir()).glob("tokentape-bench-*"))
    bench = subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: "processes.reader" in " ".join(commands(descendants(bench.pid))), 60, "no reader began")
        started = descendants(bench.pid)
        made = set(Path(tempfile.gettempdir()).glob("tokentape-bench-*")) - folders
        assert len(started) >= 5  # itself, keeper, upstream, server, reader
        bench.send_signal(number)
        status = bench.wait(40)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 1)
        until(lambda: not commands(started), 40, "some are left")
        until(lambda: not any(folder.exists() for folder in made), 40, "the database's folder is left")
    finally:
        bench.kill()
        bench.wait()
    assert not list(tmp_path.iterdir())  # a run that was stopped has no results


def test_a_helper_that_ends_is_told_from_one_that_is_silent() -> None:
    helper = Helper("upstream")
    try:
        assert helper.until("port", 20)["port"] > 0
        with pytest.raises(HelperFailed, match="silent"):
            helper.answer(0.1)
        os.kill(helper.pid, signal.SIGKILL)
        with pytest.raises(HelperFailed, match="ended with status -9"):
            helper.answer(20)
    finally:
        helper.close()


def test_unknown_names_and_settings_are_refused() -> None:
    for arguments in (["nonsense"], ["memory", "--generations", "3"], ["disk", "--against", "HEAD"]):
        done = subprocess.run(
            [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert arguments[-2 if len(arguments) > 1 else 0].lstrip("-") in done.stderr


def test_the_list_names_them_all() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    names = [line.split()[0] for line in done.stdout.splitlines()]
    measured = "append load search fanout replay polls jobs edge storm alone durability cpu memory growth disk"
    assert set(measured.split()) == set(names)
