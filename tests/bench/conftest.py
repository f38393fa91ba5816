"""Benchmarks as tests run them: servers forked instead of started, and shorter waits for a server at rest.

A benchmark starts a server for each of its parts, with a second of imports, and waits half a second until that
server has nothing to do any more, so that figures are exact. Tests say nothing about figures.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.harness import resource_usage, server_process
from bench.harness.postgres import Postgres, open_postgres
from tests.harness.processes import ROOT, Process, start


@pytest.fixture(scope="module")
def bench_postgres() -> Iterator[Postgres]:
    """As the command has it: fsync on, in a process of its own."""
    with open_postgres() as found:
        assert found.sql("SHOW fsync") == "on"
        yield found


@pytest.fixture
def forked_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of this checkout are forked; a former revision's get an interpreter, as they have other code."""

    def start_server(command: list[Any], *, env: Mapping[str, str], cwd: Path, **options: Any) -> Process:
        if cwd != ROOT:
            return subprocess.Popen(command, env=env, cwd=cwd, **options)
        own = {name: value for name, value in env.items() if name != "PYTHONPATH"}
        streams = {"stdout": options["stdout"].fileno(), "stderr": options["stderr"].fileno()}
        return start(["bench.processes.server_launcher", *command[3:]], env=own, **streams)

    replaced = SimpleNamespace(**{**vars(subprocess), "Popen": start_server})
    monkeypatch.setattr(server_process, "subprocess", replaced)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server counts as quiet after a tenth of a second."""
    monkeypatch.setattr(resource_usage, "QUIET_CHECK_SECONDS", 0.05)
