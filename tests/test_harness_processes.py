"""A process that the harness forks behaves as one that a fresh interpreter runs."""

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import ForkedProcess, ForkServer, start

PROBE = "tests.harness.apps.probe"
ENDINGS = "tests.harness.apps.endings"


def run_probe(arguments: list[str], env: dict[str, str], *, fresh: bool) -> tuple[int, Any, list[str]]:
    """The exit status, the probe's findings, and the lines after them."""
    with tempfile.TemporaryFile() as output:
        process = start([PROBE, *arguments], env=env, stdout=output.fileno(), stderr=2, fresh=fresh)
        assert isinstance(process, subprocess.Popen if fresh else ForkedProcess)
        status = process.wait(60)
        found, *lines = os.pread(output.fileno(), 1_000_000, 0).decode().splitlines()
    return status, json.loads(found), lines


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("status", [0, 3, -signal.SIGKILL, -signal.SIGTERM])
def test_forked_process_equals_a_fresh_one(status: int, unbuffered: str) -> None:
    """Arguments, environment, folder, descriptors, signals, streams, exit status; and its output is flushed."""
    env = {**os.environ, "TOKENTAPE_PROBE": "ä", "PYTHONUNBUFFERED": unbuffered}
    arguments = [str(int(status)), "two words"]
    forked = run_probe(arguments, env, fresh=False)
    assert forked == run_probe(arguments, env, fresh=True)
    assert (forked[0], forked[2]) == (status, ["last"] if status >= 0 else [])
    assert (forked[1]["arguments"], forked[1]["env"]) == (
        arguments,
        {name: value for name, value in env.items() if name != "_"},
    )


def test_forked_process_can_be_stopped_and_killed() -> None:
    """SIGSTOP holds it, and only then may a wait time out; SIGKILL ends it, and once more is nothing."""
    with tempfile.TemporaryFile() as output:
        process = start(
            ["tests.providers.fake_provider", "--port", "0"], env=os.environ, stdout=output.fileno(), stderr=2
        )
        assert isinstance(process, ForkedProcess)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.kill()
        assert process.wait(20) == process.poll() == process.returncode == -signal.SIGKILL
        process.kill()
    assert not Path(f"/proc/{process.pid}").exists()


def test_environment_of_the_interpreter_start_is_respected() -> None:
    """Another locale or another hash seed is read at an interpreter's start."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with tempfile.TemporaryFile() as output:
        process = start([PROBE, "0"], env=env, stdout=output.fileno(), stderr=2)
        assert process.wait(60) == 0
        assert isinstance(process, subprocess.Popen)
        found = json.loads(os.pread(output.fileno(), 1_000_000, 0).splitlines()[0])
    assert found["encoding"][0][1] == "surrogateescape"


def test_forked_processes_end_with_their_client() -> None:
    """Processes end with the fork server, and it ends with the process that asks it."""
    server = ForkServer()
    with tempfile.TemporaryFile() as output:
        streams = [output.fileno()] * 3
        process = server.fork(["tests.providers.fake_provider", "--port", "0"], os.environ, streams, False)
    assert process.poll() is None
    server.close()
    assert process.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize(
    "way", ["returned", "none", "0", "3", "300", "text", "raised", "interrupted", "terminated", "closed pipe"]
)
def test_forked_process_ends_as_a_fresh_one(way: str) -> None:
    """Status, last words, its thread and its `atexit` functions, and the complaint of what was left open."""
    told = []
    for fresh in (False, True):
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = start(
                [ENDINGS, way], env=os.environ, stdout=output.fileno(), stderr=errors.fileno(), fresh=fresh
            )
            status = process.wait(60)
            said, complaints = (os.pread(file.fileno(), 1_000_000, 0).decode() for file in (output, errors))
        last = [
            line for line in complaints.splitlines() if line and not line.startswith((" ", "Trace", "Exception"))
        ]
        told.append((status, said.splitlines(), last))
    forked, interpreted = told
    assert forked == interpreted
    if way not in ("terminated", "closed pipe"):
        assert forked[1] == ["from a thread", "from atexit"]
        assert "ValueError: left open" in forked[2]
