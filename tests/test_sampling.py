"""The tests of which `make test` runs a part: the table names tests that exist, and every cell has its day."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import sampling

CELLS = [f"tests/web/test_suite.py::test_table[{cell}]" for cell in range(8)]
OTHER = ["tests/web/test_suite.py::test_other", "tests/web/test_suite.py::test_table_of_others[0]"]


class Item:
    """As much of a collected test as is looked at."""

    def __init__(self, nodeid: str) -> None:
        self.nodeid = nodeid
        self.marked = False

    def get_closest_marker(self, _name: str) -> bool | None:
        return self.marked or None

    def add_marker(self, mark: Any) -> None:
        assert mark.name == "soak"
        self.marked = True


def _run_on(monkeypatch: pytest.MonkeyPatch, day: str) -> set[str]:
    monkeypatch.setenv(sampling.DAY, day)
    items: list[Any] = [Item(nodeid) for nodeid in (*CELLS, *OTHER)]
    sampling.leave_to_soak(items)
    return {item.nodeid for item in items if not item.marked}


def test_part_of_a_table_is_run_and_each_cell_on_some_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CELLS", {"web/test_suite::test_table": 3})
    monkeypatch.setattr(sampling, "FAMILIES", {})
    seen: set[str] = set()
    for number in range(1, 31):
        run = _run_on(monkeypatch, f"2026-01-{number:02}")
        assert run == _run_on(monkeypatch, f"2026-01-{number:02}")
        assert len(run) == 3 + len(OTHER)
        seen |= run
    assert seen == {*CELLS, *OTHER}


def test_a_family_shares_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CELLS", {})
    family = ("web/test_suite::test_table", "web/test_suite::test_other")
    monkeypatch.setattr(sampling, "FAMILIES", {family: 2})
    runs = [_run_on(monkeypatch, f"2026-01-{number:02}") for number in range(1, 31)]
    assert all(len(run & {*CELLS, OTHER[0]}) == 2 and OTHER[1] in run for run in runs)
    assert set().union(*runs) == {*CELLS, *OTHER}


def test_make_test_and_make_soak_together_run_everything(request: pytest.FixtureRequest) -> None:
    """Each by the marks of its line in the Makefile, on a part of the real tests."""
    folder = request.config.rootpath
    lines = (folder / "Makefile").read_text().splitlines()
    marks = {name: _marks_of(lines, name) for name in ("test", "soak")}
    found = {name: _collected(folder, "-m", marks[name]) for name in marks}
    everything = _collected(folder, "-m", "")
    assert found["test"] | found["soak"] == everything
    assert len(found["test"]) < len(everything) > len(found["soak"]) > 10


def _marks_of(lines: list[str], target: str) -> str:
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{target}: "))
    command = next(line for line in lines[start:] if " -m pytest " in line)
    words = shlex.split(command)
    return words[words.index("-m", words.index("pytest")) + 1]


def _collected(folder: Path, *words: str) -> set[str]:
    """Tests with cells, members of a family, and laws."""
    names = ("http/test_tls", "topology/test_failures", "wire_formats/test_cuts", "workflows/test_workflow")
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *words]
    command += [f"tests/{name}.py" for name in names]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=True).stdout
    return {line for line in said.splitlines() if "::" in line}


@pytest.mark.parametrize("test", [*sampling.CELLS, *(test for family in sampling.FAMILIES for test in family)])
def test_tables_name_tests(test: str, request: pytest.FixtureRequest) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (request.config.rootpath / "tests" / f"{path}.py").read_text(encoding="utf-8")


def test_a_test_is_in_one_table() -> None:
    named = [*sampling.CELLS, *(test for family in sampling.FAMILIES for test in family)]
    assert len(named) == len(set(named))
