"""Schemathesis looks for breaches of the document: a thousand requests, good and bad, that it makes up from it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import trio

from server.web.openapi import document
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("st")
FLAGS = ["--seed", "1", "--max-examples", "10", "--generation-database", "none", "--request-timeout", "20"]
SERVER = {"TOKENTAPE_STREAM_MAX_SECONDS": "0.2", "TOKENTAPE_MAX_RUNS": "5000"}
"""Streams and held requests end after a moment, for it waits for the end of every answer."""


async def test_it_finds_no_breach(database: TestDatabase, tmp_path: Path) -> None:
    """All its phases and checks, but one: nothing here can be deleted, so nothing is used after that."""
    async with running(database.app_url, SERVER) as server:
        words = [
            str(COMMAND),
            "--config-file",
            str(HERE / "schemathesis.toml"),
            "run",
            f"{server.url}/openapi.json",
        ]
        with trio.fail_after(100):
            done = await trio.run_process(
                [*words, *FLAGS, "--exclude-checks", "use_after_free"],
                cwd=tmp_path,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        said = done.stdout.decode()
        assert done.returncode == 0, said + done.stderr.decode()
        operations = sum(map(len, document()["paths"].values()))
        assert f"Tested: {operations}" in said, said
        found = re.search(r"(\d+) generated, (\d+) passed", said)
        assert found, said
        assert int(found[1]) == int(found[2]) > 700, said
        links = re.search(r"API Links: +(\d+) covered", said)
        assert links, said
        assert int(links[1]) > 5, said
        assert "Traceback" not in server.logged(), server.logged()[-8000:]
