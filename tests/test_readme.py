"""The README's tour, run as it stands there, line by line, against a server on its default address's stand-in."""

import json
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from server.workflows import load
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, running


async def test_the_tour_does_what_it_says(database: TestDatabase, tmp_path: Path) -> None:
    """A cut and a resume: the second part begins right behind the first one's last id."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    async with running(database.app_url) as server:
        script = "set -u\n" + "\n".join(blocks).replace("http://127.0.0.1:8000", server.url)
        run = partial(
            subprocess.run,
            ["sh", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        done = await trio.to_thread.run_sync(run)
        assert done.returncode == 0, done.stderr
        first = _positions(tmp_path / "first.txt")
        second = _positions(tmp_path / "second.txt")
        assert len(first) > 10
        assert first + second == list(range(first[0], first[0] + len(first) + len(second)))
        cancelled = json.loads(done.stdout[done.stdout.rindex('{"id":"gen_') :])
        assert cancelled["status"] == "cancelled"
        assert cancelled["upstream_closed"] is True


BLOCKS = (
    b"retry: 1000\n\n:\n",
    b'data: {"position":3}\nid: 3\n\n',
    b":\n",
    b'id: 17\ndata: {"position":17}\n\n',
    b'data: {"position":118}\nid: 118\n\n',
)
IDS = ("", "3", "3", "17", "118")


def test_the_last_id_is_that_of_the_last_whole_block(tmp_path: Path) -> None:
    """Wherever the file was cut: an id whose block is incomplete was not given out, and half of one is another."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^LAST=\$\((.*)\)", text, re.MULTILINE)
    whole = b"".join(BLOCKS)
    ends = [len(b"".join(BLOCKS[: count + 1])) for count in range(len(BLOCKS))]
    script = "".join(f"cd {tmp_path}/{size} && {recipe}\n" for size in range(len(whole) + 1))
    for size in range(len(whole) + 1):
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "first.txt").write_bytes(whole[:size])
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, timeout=60)
    expected = []
    for size in range(len(whole) + 1):
        given = [name for name, end in zip(IDS, ends, strict=True) if end <= size]
        expected.append(given[-1] if given else "")
    assert done.stdout.split("\n")[:-1] == expected


def _positions(path: Path) -> list[int]:
    *whole, _cut = path.read_text(encoding="utf-8").split("\n\n")
    lines = "\n".join(whole).splitlines()
    return [json.loads(line.removeprefix("data: "))["position"] for line in lines if line.startswith("data: {")]


def test_the_app_in_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads as it stands there: its workflow, its tool, and when that asks."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "readme_app.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load(["readme_app"])
    assert list(found.workflows) == ["service_bot"]
    assert found.workflows["service_bot"].initial_steering() == {"strictness": 5}
    refund = found.tools["refund"]
    assert [refund.needs_approval({"order": "A1", "cents": cents}) for cents in (1_000, 1_001)] == [False, True]
