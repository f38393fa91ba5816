"""Runs `tokentape …` as a person would: a process, its exit status, what it prints."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import trio

from tests.harness.servers import ROOT


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


async def tokentape(*words: str, env: Mapping[str, str] | None = None) -> Done:
    """Runs it to its end, within a minute."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENTAPE_", "OPENAI_"))}
    run = partial(
        subprocess.run,
        [sys.executable, "-m", "server", *words],
        env={**base, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    done = await trio.to_thread.run_sync(run)
    return Done(done.returncode, done.stdout, done.stderr)
