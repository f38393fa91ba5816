"""An app whose modules have names of Tokentape's own packages: loaded beside them, or refused with an
explanation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.servers import ROOT

SHOP = """
from tokentape import tool

@tool
def refund(amount: int) -> None:
    "Pays back."
"""
ASKS_ITS_SERVER = "from server import shelf\n"
LAYOUTS = {
    "modules": ("server.py", "eventstore.py", "migrations.py", "tokentape.py"),
    "packages": ("server/__init__.py", "server/app.py", "migrations/0001.sql", "migrations/env.py"),
}
REFUSED = [
    ("modules", "server", "server.py"),
    ("modules", "eventstore", "eventstore.py"),
    ("modules", "migrations", "migrations.py"),
    ("modules", "tokentape", "tokentape.py"),
    ("packages", "server", "server"),
    ("packages", "server.app", "server"),
    ("packages", "migrations", "migrations"),
    ("packages", "migrations.env", "migrations"),
]
PLACES = ("cwd", "PYTHONPATH", "installed")
LOAD = """
import json, sys
import tokentape_packages
tokentape_packages.prefer_own_packages()
from server.workflows import BadModule, load
told = {}
for name in sys.argv[1:]:
    try:
        told[name] = sorted(load([name]).tools)
    except BadModule as error:
        told[name] = str(error)
print(json.dumps(told))
"""

Loaded = Callable[[str, str], tuple[Path, dict[str, str | list[str]]]]


def run_python(layout: str, place: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A process like the installed command: its path begins with PYTHONPATH, and ends with what is installed."""
    app, elsewhere = folder / "app", folder / "elsewhere"
    for file in LAYOUTS[layout]:
        path = app / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SHOP)
    (app / "shop.py").write_text(SHOP)
    (app / "bot.py").write_text(ASKS_ITS_SERVER)
    elsewhere.mkdir()
    search = {"cwd": [ROOT], "PYTHONPATH": [app, ROOT], "installed": [ROOT, app]}[place]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search)), "PYTHONDONTWRITEBYTECODE": "1"}
    where = app if place == "cwd" else elsewhere
    return subprocess.run(
        [sys.executable, "-P", *words], cwd=where, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def load_layout(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """What the loader says of each module of a layout; one process loads them one after the other."""
    known: dict[tuple[str, str], tuple[Path, dict[str, str | list[str]]]] = {}

    def load(layout: str, place: str) -> tuple[Path, dict[str, str | list[str]]]:
        if (layout, place) not in known:
            folder = tmp_path_factory.mktemp("clash")
            names = [name for kind, name, _ in REFUSED if kind == layout]
            done = run_python(layout, place, folder, "-c", LOAD, *names, "bot", "shop")
            assert done.returncode == 0, done.stderr
            known[layout, place] = folder / "app", json.loads(done.stdout)
        return known[layout, place]

    return load


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("layout", "name", "file"), REFUSED)
def test_module_with_a_package_name_is_refused(
    load_layout: Loaded, layout: str, name: str, file: str, place: str
) -> None:
    folder, told = load_layout(layout, place)
    top = name.partition(".")[0]
    assert told[name] == (
        f"{name} cannot be loaded: {top} is the name of a package of Tokentape's own, and a process has one "
        f"module of a name. Rename {folder / file}, and load it by its new name."
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_modules_beside_it_are_loaded(load_layout: Loaded, layout: str, place: str) -> None:
    """Their `from tokentape import tool` finds Tokentape, not the app's own file."""
    assert load_layout(layout, place)[1]["shop"] == ["refund"]


@pytest.mark.parametrize("place", PLACES)
def test_import_of_the_clashing_module_explains_the_clash(load_layout: Loaded, place: str) -> None:
    folder, told = load_layout("modules", place)
    said = told["bot"]
    assert isinstance(said, str)
    assert said.startswith("bot cannot be imported. ImportError: cannot import name 'shelf' from 'server' (")
    assert said.endswith(
        f"({folder / 'bot.py'}, line 1). Here the name server is a package of Tokentape's own, not "
        f"{folder / 'server.py'}. Rename that."
    )


@pytest.mark.parametrize("place", ["cwd", "PYTHONPATH"])
def test_command_explains_the_clash(tmp_path: Path, place: str) -> None:
    """The whole command: one sentence on standard error, and no traceback."""
    start = "import tokentape_packages; tokentape_packages.main()"
    done = run_python("modules", place, tmp_path, "-c", start, "serve", "--workflows", "server")
    assert done.returncode not in (0, 1), done.stderr
    assert f"Rename {tmp_path / 'app' / 'server.py'}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("layout", "file"), [("modules", "server.py"), ("packages", "server")])
def test_import_of_tokentape_outside_the_command_names_the_clash(tmp_path: Path, layout: str, file: str) -> None:
    """There the app's folder may come first on the path."""
    start = "import sys; sys.path.insert(1, sys.argv[1]); import importlib; importlib.import_module('tokentape')"
    (tmp_path / "app").mkdir()
    if layout == "modules":
        (tmp_path / "app" / "server.py").write_text("")
    else:
        (tmp_path / "app" / "server").mkdir()
        (tmp_path / "app" / "server" / "__init__.py").write_text("")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [tmp_path / "app", ROOT]))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", start, str(ROOT)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: server is the name of a package of Tokentape's own")
    assert last.endswith(f"Rename {tmp_path / 'app' / file}, or let Python find Tokentape first.")
