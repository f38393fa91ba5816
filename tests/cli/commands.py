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


def clean_environment() -> dict[str, str]:
    """This one without anything that configures Tokentape or decides about colours."""
    strange = ("TOKENTAPE_", "OPENAI_", "ANTHROPIC_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(strange)}


async def tokentape(*words: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """Runs it to its end, within a minute, with `stdin` on a pipe."""
    run = partial(
        subprocess.run,
        [sys.executable, "-m", "server", *words],
        env={**clean_environment(), **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    done = await trio.to_thread.run_sync(run)
    return Done(done.returncode, done.stdout, done.stderr)
