"""Which tests may be skipped: a run with any other skip fails, so that a missing program cannot hide lost tests.

A skip is expected for two reasons. The machine cannot have what the test needs: `LIMITS` lists those. Or
`tools/test-needs` could not install a program, which it has said loudly and written to `.venv/.missing-needs`.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

MISSING_NEEDS = Path(__file__).parents[2] / ".venv" / ".missing-needs"

LIMITS = (
    "only root",  # the run is an ordinary user's
    "this machine has its loopback address only",
    "no IPv6 on this machine",
    "no small disk to fill",
    "no private /etc to try it in",
    "setpriv cannot take rights away on this machine",
    "no Python 3.11",
    "the libraries need Node",
    "the user nobody can run no Python 3.11",
    "a former revision needs a git checkout",
)
"""Beginnings of reasons that lie in the machine or in the user who runs the tests."""

NEEDS = {
    "chromium": r"chromium",
    "nginx-light": r"nginx",
    "pgbouncer": r"PgBouncer",
    "nodejs": r"node\b|Node \d+",
    "postgresql": r"no PostgreSQL is installed",
    "php-cli": r"\bPHP\b",
    "tesseract-ocr": r"[Tt]esseract",
    "npm": r"node\b|tests/real_clients/node",
}
"""Debian packages that `tools/test-needs` installs, and how the skip reasons name them."""


def unexpected(reasons: Iterable[str], *, missing: Iterable[str], is_root: bool) -> list[str]:
    """The skip reasons that nothing explains. `missing`: packages that could not be installed."""
    allowed = [NEEDS[package] for package in missing if package in NEEDS]
    found = []
    for reason in reasons:
        text = reason.removeprefix("Skipped: ")
        if (text.startswith("only root") and is_root) or not (
            text.startswith(LIMITS) or any(re.search(pattern, text) for pattern in allowed)
        ):
            found.append(text)
    return found


def unexpected_in(reasons: Iterable[str]) -> list[str]:
    """As `unexpected`, for the user and the machine of this run."""
    missing = MISSING_NEEDS.read_text(encoding="utf-8").split() if MISSING_NEEDS.exists() else []
    return unexpected(reasons, missing=missing, is_root=os.geteuid() == 0)
