"""Counts what the tools of the test app really did, outside of the event log.

The app's tools write a line to a file for each side effect, so that a test notices one that happened twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.clients.api import Api

APP = "tests.harness.apps.interactive_workflows"
Did = Counter[str]


def app_settings(diary: Path) -> dict[str, str]:
    """Settings of a server with the test app, whose tools write their side effects to this file."""
    return {"TOKENTAPE_WORKFLOWS": APP, "DIARY": str(diary)}


def count_side_effects(diary: Path) -> Did:
    """How often each side effect happened."""
    return Counter(diary.read_text().splitlines()) if diary.exists() else Counter()


def side_effect(what: str, **fields: Any) -> str:
    """The line of the file for this side effect."""
    return json.dumps({"what": what, **fields}, sort_keys=True)


def calls_of(log: list[dict[str, Any]]) -> list[str]:
    """The outcomes of the log's tool calls, in order."""
    return [event["type"] for event in log if event["type"].startswith("tool.")]


def tool_run(tool: str, **arguments: Any) -> Mapping[str, Any]:
    """The request of a demo run that calls a tool."""
    return {
        "model": "demo",
        "tools": [tool],
        "parameters": {"tokens": 2, "rate": 0, "calls": [{"name": tool, "arguments": arguments}]},
    }


async def log_of_interrupted_run(api: Api, path: str) -> list[dict[str, Any]]:
    """Waits for the end of the run. Returns its log, which must hold two attempts."""
    log = await api.finished(path)
    attempts = [event["attempt"] for event in log if event["type"] == "generation.started"]
    assert attempts == [1, 2], attempts
    return log
