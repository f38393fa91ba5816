"""Schemathesis looks for breaches of the document: hundreds of requests, good and bad, made up from it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from server.web.openapi import document
from tests.clients.api import Api
from tests.harness.api_keys import make_key
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, Server, running
from tests.observability.scraping import scraping

from .controls import APP, agent, approval, paused, until, workflow

EXPECTED = Path(__file__).with_name("schemathesis.toml").read_text()
ONE_OF_TWO = """
[[operations]]
include-path = "/v1/conversations/{conversation}/generations"
phases.coverage.enabled = false
"""
"""The body of `POST /v1/generations`, all 400 variants of it, is sent to one of its two addresses."""
MORE_STEPS = """
[phases.stateful]
generation.max-examples = 10
"""
"""So that a sample, too, follows links from one operation to the next."""
CONFIG = "schemathesis.toml"
COMMAND = Path(sys.executable).with_name("st")
FLAGS = ["--seed", "1", "--generation-database", "none", "--request-timeout", "20"]
SERVER = {"TOKENTAPE_STREAM_MAX_SECONDS": "0.2", "TOKENTAPE_MAX_RUNS": "5000", **APP}
"""Streams and held requests end after a moment, for it waits for the end of every answer."""
TALKED_BACK = {
    f"/v1/generations/<name>/{last}" for last in ("budget", "decisions", "steer", "tools/<call>/result")
}
"""Not by luck: generations wait for them, see `hooks`."""


@pytest.mark.parametrize("sample", [True, pytest.param(False, marks=pytest.mark.soak)], ids=["sample", "all"])
async def test_it_finds_no_breach(database: TestDatabase, tmp_path: Path, sample: bool) -> None:
    """All its phases and checks, but one: nothing here can be deleted, so nothing is used after that."""
    async with running(database.app_url, SERVER) as server:
        (tmp_path / CONFIG).write_text(EXPECTED + (ONE_OF_TWO + MORE_STEPS) * sample)
        async with Api.open(server.port) as api:
            waiting = await _waiting(api)
        with trio.fail_after(100 if sample else 3_000):
            flags = ["--max-examples", "2" if sample else "50", "--exclude-checks", "use_after_free"]
            said, generated = await _search(server, tmp_path, waiting, flags)
        assert generated > 700, said
        links = re.search(r"API Links: +(\d+) covered", said)
        assert links, said
        assert int(links[1]) > 5, said
        assert (await _served(server)).keys() >= TALKED_BACK


@pytest.mark.parametrize("signed", [True, False], ids=["with a key", "without"])
async def test_it_finds_no_breach_where_keys_are_needed(
    database: TestDatabase, tmp_path: Path, signed: bool
) -> None:
    """Signed in it is served as anybody is elsewhere; without a key no address of the API serves it."""
    key = (await make_key(database)).text
    (tmp_path / CONFIG).write_text(EXPECTED)
    async with running(database.app_url, SERVER) as server:
        async with Api.open(server.port) as api:
            api.http.headers["Authorization"] = f"Bearer {key}"
            waiting = await _waiting(api)
            before = await _served(server)
        phases = "examples,fuzzing"
        flags = ["-H", f"Authorization: Bearer {key}"] if signed else []
        excluded = "use_after_free" if signed else "use_after_free,positive_data_acceptance"
        flags += ["--max-examples", "2", "--phases", phases, "--exclude-checks", excluded]
        with trio.fail_after(100):
            said, generated = await _search(server, tmp_path, waiting, flags)
        assert generated > 50, said
        assert key not in server.logged()
        served = {route for route, number in (await _served(server)).items() if number > before.get(route, 0)}
        of_the_api = {route for route in served if route.startswith("/v1/")} - {"/v1/diagnostics/stream"}
        assert len(of_the_api) > 5 if signed else of_the_api == set()


async def _search(server: Server, folder: Path, waiting: dict[str, Any], flags: list[str]) -> tuple[str, int]:
    """Lets it search; what it said, and how many requests it made, none of them a breach."""
    words = [str(COMMAND), "--config-file", str(folder / CONFIG), "run", f"{server.url}/openapi.json"]
    done = await trio.run_process(
        [*words, *FLAGS, *flags],
        cwd=folder,
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
    assert int(found[1]) == int(found[2]), said
    assert "Traceback" not in server.logged(), server.logged()[-8000:]
    return said, int(found[1])


async def _served(server: Server) -> dict[str, float]:
    """How many requests to each route were answered well."""
    served: Counter[str] = Counter()
    async with scraping(server) as scraper:
        for one in (await scraper.scrape()).samples("tokentape_http_requests_total"):
            if one.labels["status"].startswith("2"):
                served[one.labels["route"]] += int(one.value)
    return dict(served)


async def _waiting(api: Api) -> dict[str, Any]:
    """For each operation that talks back a generation that waits for just that."""
    steered, _ = await workflow(api)
    decided, call = await agent(api)
    finished, running = await agent(api)
    assert (await api.post(f"{finished}/decisions", approval(running))).status_code == 200
    await until(api, finished, lambda one: one["tool_calls"][0]["status"] == "started")
    raised = await paused(api)
    body = {"call": call["call"], "proposed_digest": call["proposed_digest"]}
    return {
        "steerGeneration": {"path": _ids(steered), "body": {"name": "strictness"}},
        "raiseBudget": {"path": _ids(raised), "body": {"tokens": 1_000, "cost": None}},
        "decideCall": {"path": _ids(decided), "body": body},
        "finishCall": {"path": {**_ids(finished), "call": running["call"]}, "body": {}},
    }


def _ids(path: str) -> dict[str, str]:
    return {"generation": path.rpartition("/")[2]}
