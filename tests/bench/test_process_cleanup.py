"""However a benchmark ends, every process that it started ends too."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.harness.child_process import ChildProcess, ChildProcessFailed
from bench.harness.resource_usage import descendants

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "bench", "load", "--generations", "2", "--seconds", "60"]


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
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
def test_no_process_is_left_after_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    bench = subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(
            lambda: "processes.stream_readers" in " ".join(commands(descendants(bench.pid))), 60, "no reader began"
        )
        started = descendants(bench.pid)
        # Only this run's folder: another checkout's benchmark may be running on the same machine.
        made = {Path(found) for found in re.findall(r"\S+/tokentape-bench-\w+", " ".join(commands(started)))}
        assert made
        assert len(started) >= 5  # bench, PostgreSQL and its process, the mock provider, the server, the readers
        bench.send_signal(number)
        status = bench.wait(40)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 1)
        wait_until(lambda: not commands(started), 40, "some are left")
        wait_until(lambda: not any(folder.exists() for folder in made), 40, "the database's folder is left")
    finally:
        bench.kill()
        bench.wait()
    assert not list(tmp_path.iterdir())  # a run that was stopped has no results


def test_the_error_tells_a_child_that_ended_from_a_silent_one() -> None:
    child = ChildProcess("mock_provider")
    try:
        assert child.wait_for("port", 20)["port"] > 0
        with pytest.raises(ChildProcessFailed, match="silent"):
            child.receive(0.1)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildProcessFailed, match="ended with status -9"):
            child.receive(20)
    finally:
        child.close()


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["nonsense"], "nonsense"),
        (["idle-memory", "--generations", "3"], "generations"),
        (["disk", "--against", "HEAD"], "against"),
    ],
)
def test_unknown_names_and_settings_are_refused(
    arguments: list[str], refused: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert refused in capsys.readouterr().err


def test_the_list_names_them_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--list"])
    main()
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    measured = (
        "append load capacity fanout replay snapshot-polling job-polling "
        "request-cost key-cost reconnect-storm single-stream durability cpu idle-memory memory-growth disk"
    )
    assert set(measured.split()) == set(names)
