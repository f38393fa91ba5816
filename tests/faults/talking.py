"""What the tests that kill a server share: the app it has loaded, what that app really did, its runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.clients.api import Api

APP = "tests.harness.apps.talking"
Did = Counter[str]


def app_settings(diary: Path) -> dict[str, str]:
    """Settings of a server with the app, whose tools write down there what they do."""
    return {"TOKENTAPE_WORKFLOWS": APP, "DIARY": str(diary)}


def done(diary: Path) -> Did:
    """How often each thing was really done, by its line in the diary."""
    return Counter(diary.read_text().splitlines()) if diary.exists() else Counter()


def line(what: str, **fields: Any) -> str:
    """The diary's line for it."""
    return json.dumps({"what": what, **fields}, sort_keys=True)


def calls_of(log: list[dict[str, Any]]) -> list[str]:
    """What became of the calls, in order."""
    return [event["type"] for event in log if event["type"].startswith("tool.")]


def tool_run(tool: str, **arguments: Any) -> Mapping[str, Any]:
    """The request of a demo run that calls a tool."""
    return {
        "model": "demo",
        "tools": [tool],
        "parameters": {"tokens": 2, "rate": 0, "calls": [{"name": tool, "arguments": arguments}]},
    }


async def interrupted(api: Api, path: str) -> list[dict[str, Any]]:
    """Its log, once it has ended; one attempt followed another."""
    log = await api.finished(path)
    attempts = [event["attempt"] for event in log if event["type"] == "generation.started"]
    assert attempts == [1, 2], attempts
    return log
