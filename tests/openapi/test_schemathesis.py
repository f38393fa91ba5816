"""Schemathesis looks for breaches of the document: a thousand requests, good and bad, that it makes up from it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import trio

from server.web.openapi import document
from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, running
from tests.observability.scraping import scraping

from .controls import APP, agent, approval, until, workflow

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("st")
FLAGS = ["--seed", "1", "--max-examples", "5", "--generation-database", "none", "--request-timeout", "20"]
SERVER = {"TOKENTAPE_STREAM_MAX_SECONDS": "0.2", "TOKENTAPE_MAX_RUNS": "5000", **APP}
"""Streams and held requests end after a moment, for it waits for the end of every answer."""
TALKED_BACK = {f"/v1/generations/<name>/{last}" for last in ("decisions", "steer", "tools/<call>/result")}
"""Not by luck: generations wait for them, see `hooks`."""


async def test_it_finds_no_breach(database: TestDatabase, tmp_path: Path) -> None:
    """All its phases and checks, but one: nothing here can be deleted, so nothing is used after that."""
    async with running(database.app_url, SERVER) as server:
        async with Api.open(server.port) as api:
            waiting = await _waiting(api)
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
                env={**os.environ, "PYTHONPATH": str(ROOT), "TALKED_BACK_TO": json.dumps(waiting)},
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
        async with scraping(server) as scraper:
            answered = {
                one.labels["route"]
                for one in (await scraper.scrape()).samples("tokentape_http_requests_total")
                if one.labels["status"].startswith("2") and one.value
            }
        assert answered >= TALKED_BACK


async def _waiting(api: Api) -> dict[str, Any]:
    """For each operation that talks back a generation that waits for just that."""
    steered, _ = await workflow(api)
    decided, call = await agent(api)
    finished, running = await agent(api)
    assert (await api.post(f"{finished}/decisions", approval(running))).status_code == 200
    await until(api, finished, lambda one: one["tool_calls"][0]["status"] == "started")
    body = {"call": call["call"], "proposed_digest": call["proposed_digest"]}
    return {
        "steerGeneration": {"path": _ids(steered), "body": {"name": "strictness"}},
        "decideCall": {"path": _ids(decided), "body": body},
        "finishCall": {"path": {**_ids(finished), "call": running["call"]}, "body": {}},
    }


def _ids(path: str) -> dict[str, str]:
    return {"generation": path.rpartition("/")[2]}
