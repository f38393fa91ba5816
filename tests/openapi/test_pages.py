"""`/docs` in a browser, `/` for everybody, and how both and `/openapi.json` are served."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import trio

from server.web.openapi import document
from tests.clients.api import Api
from tests.files.sample_files import PNG
from tests.harness.browser import CHROMIUM, NO_CHROMIUM
from tests.harness.servers import ROOT, Server

from .controls import NOBODY, agent, approval, until, workflow


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_the_page_is_whole_and_asks_nobody_else(server: Server) -> None:
    """Every operation and schema, no foreign request, no complaint; also on a phone, in the dark."""
    words = [sys.executable, "-m", "tests.openapi.chromium", f"{server.url}/docs"]
    with trio.fail_after(60):
        done = await trio.run_process(words, capture_stdout=True, cwd=ROOT)
    views = json.loads(done.stdout)
    operations = {one["operationId"] for methods in document()["paths"].values() for one in methods.values()}
    for name, seen in views.items():
        assert set(seen["operations"]) == operations, name
        assert seen["schemas"] == [f"schema-{schema}" for schema in document()["components"]["schemas"]]
        asked = [url for url in seen["requests"] if not url.startswith("data:")]
        assert asked == [f"{server.url}/docs", f"{server.url}/v1/session"]
        assert seen["complaints"] == []
        assert seen["dead"] == [], "links that lead nowhere"
        assert seen["overflow"] <= 0, f"{name}: the page scrolls sideways"
        assert seen["first"].startswith(f"U={server.url}\n")
        assert seen["copied"] == seen["example"]
        assert seen["copied"].startswith("curl ")
        assert seen["examples"] >= len(operations) - 1
    assert views["wide"]["background"] != views["phone"]["background"], "dark is as light"


async def test_the_page_lets_only_its_own_run(api: Api) -> None:
    """A policy that begins with nothing, and names its style and script by their digests."""
    for path in ("/docs", "/"):
        answer = await api.http.get(path, headers={"Accept": "text/html"})
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(r"""(src|href)=["'](https?:)?//""", answer.text)


async def test_examples_are_commands_that_work(api: Api, server: Server, tmp_path: Path) -> None:
    """Each one, run by a shell as it stands; those of other programs are left to their own tests."""
    conversation = (await api.conversation()).rpartition("/")[2]
    generation = await api.generate(tokens=30, rate=0, webhook=NOBODY)
    await api.finished(generation)
    operations = [one for methods in document()["paths"].values() for one in methods.values()]
    curls = [
        (one["operationId"], sample["source"])
        for one in operations
        for sample in one["x-codeSamples"]
        if sample["source"].startswith("curl ")
    ]
    assert len(curls) >= len(operations) - 2
    (tmp_path / "page.png").write_bytes(PNG)
    file = (await api.http.post("/v1/files", content=PNG)).json()["digest"]
    known = {
        "FILE": file,
        "U": server.url,
        "C": conversation,
        "G": generation.rpartition("/")[2],
        "PATH": "/usr/bin:/bin",
    }
    for operation, source in curls:
        env = {**known, **await _talked_back_to(api, operation)}
        with trio.fail_after(30):
            done = await trio.run_process(
                ["sh", "-c", source.replace("curl ", "curl --fail ", 1)],
                env=env,
                cwd=tmp_path,  # some write a file of cookies
                capture_stdout=True,
                check=False,
            )
        # Positions of the examples may be past the end of what is here; all else has to work.
        assert done.returncode == 0 or "17" in source or "at=3" in source, (source, done.stdout[:500])


async def _talked_back_to(api: Api, operation: str) -> dict[str, str]:
    """A generation, and its call, for which the operation's examples are meant."""
    if operation == "raiseBudget":
        path = await api.generate(tokens=1_000, rate=100, budget={"tokens": 10})
        return {"G": path.rpartition("/")[2]}
    if operation not in ("decideCall", "finishCall", "steerGeneration"):
        return {}
    path, call = await (workflow(api) if operation == "steerGeneration" else agent(api))
    if operation == "finishCall":
        await api.post(f"{path}/decisions", approval(call))
        await until(api, path, lambda one: one["tool_calls"][0]["status"] == "started")
    return {"G": path.rpartition("/")[2], "CALL": call["call"], "DIGEST": call["proposed_digest"]}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/plain", "application/json"),
        ("text/html;q=0.1, application/json", "application/json"),
    ],
)
async def test_what_this_is(api: Api, accept: str, kind: str) -> None:
    answer = await api.http.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
    assert "Accept" in answer.headers["Vary"]
    for link in ("/docs", "/openapi.json", "/healthz"):
        assert link in answer.text
        assert (await api.http.get(link)).status_code == 200


async def test_the_document_is_served_as_it_is_and_kept_by_its_digest(api: Api) -> None:
    answer = await api.http.get("/openapi.json")
    assert answer.json() == json.loads(json.dumps(document()))
    again = await api.http.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await api.http.get("/openapi.json", headers={"If-None-Match": '"0"'})).status_code == 200
