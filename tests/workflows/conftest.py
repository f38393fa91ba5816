"""A folder for an app's modules, and an interpreter that afterwards forgets what it imported from there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

App = Callable[[str, str], Path]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """Writes a file of the app (path, text) into the current folder, and returns its path."""
    here = tmp_path / "app"
    here.mkdir()
    monkeypatch.chdir(here)
    # As an installed command has it: the present folder is not on the path.
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(here))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(path: str, text: str) -> Path:
        file = here / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
        importlib.invalidate_caches()  # a folder that changed twice within a tick looks unchanged to Python
        return file

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]
