"""The commands and the app of the README, run as they stand there against a server."""

import json
import os
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from server.workflows import load
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import ROOT, running


@pytest.mark.parametrize("keyed", [False, True])
async def test_tour(database: TestDatabase, tmp_path: Path, keyed: bool) -> None:
    """It cuts and resumes: the second part begins right after the last id of the first. With a key: the same."""
    *tour, with_key = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(tour) == 5
    assert len(with_key.splitlines()) == 3
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    urls = {"TOKENTAPE_DATABASE_URL": database.app_url, "TOKENTAPE_DATABASE_OWNER_URL": database.owner_url}
    async with running(database.app_url) as server:
        # The tests' own variables, as TOKENTAPE_TESTS_FORK, are no settings: the command would refuse them.
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOKENTAPE_")} | urls
        script = "\n".join(["set -u", *([with_key] if keyed else []), *tour])
        run = partial(
            subprocess.run,
            ["sh", "-c", script.replace("http://127.0.0.1:8000", server.url)],
            cwd=tmp_path,
            env=env,
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
        async with http_client(server.url) as client:
            assert (await client.get("/v1/conversations")).status_code == (401 if keyed else 200)
        assert ('"subject":"key_' in done.stdout) is keyed


BLOCKS = (
    b"retry: 1000\n\n:\n",
    b'data: {"position":3}\nid: 3\n\n',
    b":\n",
    b'id: 17\ndata: {"position":17}\n\n',
    b'data: {"position":118}\nid: 118\n\n',
)
IDS = ("", "3", "3", "17", "118")


def test_last_id_is_that_of_the_last_complete_block(tmp_path: Path) -> None:
    """Wherever the file was cut: an incomplete block gives no id."""
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


def test_app_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its workflow, its tool, and the tool's approval rule."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "readme_app.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load(["readme_app"])
    assert list(found.workflows) == ["service_bot"]
    assert found.workflows["service_bot"].initial_steering() == {"strictness": 5}
    refund = found.tools["refund"]
    assert [refund.needs_approval({"order": "A1", "cents": cents}) for cents in (1_000, 1_001)] == [False, True]
