"""The tests of which `make test` runs a part: the table names tests that exist, and every cell has its day."""

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
    seen: set[str] = set()
    for number in range(1, 31):
        run = _run_on(monkeypatch, f"2026-01-{number:02}")
        assert run == _run_on(monkeypatch, f"2026-01-{number:02}")
        assert len(run) == 3 + len(OTHER)
        seen |= run
    assert seen == {*CELLS, *OTHER}


@pytest.mark.parametrize("test", sampling.CELLS)
def test_table_names_a_test(test: str, request: pytest.FixtureRequest) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (request.config.rootpath / "tests" / f"{path}.py").read_text(encoding="utf-8")
