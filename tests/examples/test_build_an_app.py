"""`docs/build-an-app.md`, done as it stands there: each file written, each command run, in order.

Only ports are others, and the database is the test's. What the commands answer is held against what the page says.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, free_port

PAGE = ROOT / "docs" / "build-an-app.md"
LINKED = ("Makefile", "pyproject.toml", "requirements.lock", "tools", "examples")
SECONDS = 100


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """What `make setup` needs of a copy of the repository, set up already: nothing is downloaded."""
    copy = tmp_path / "tokentape"
    (copy / ".venv").mkdir(parents=True)
    for name in LINKED:
        (copy / name).symlink_to(ROOT / name)
    for entry in (ROOT / ".venv").iterdir():
        if entry.name != ".done":
            (copy / ".venv" / entry.name).symlink_to(entry)
    (copy / ".venv" / ".done").touch()
    yield copy
    shutil.rmtree(tmp_path / "my-bot", ignore_errors=True)


def test_every_command_does_what_the_page_says(database: TestDatabase, copy: Path) -> None:
    """The outputs, block by block."""
    told = _run(_script(), database, copy)
    hello, refused, waiting, mismatch, killed, decided = told[2:8]
    job, steered, webhook, page, end = told[8:]

    events = re.findall(r'"type":"([a-z._]+)"', hello)
    assert events[:2] == ["generation.requested", "generation.started"]
    assert events.count("token") == 40
    assert events[-2:] == ["result", "generation.completed"]
    assert hello.rstrip().endswith("data: [DONE]")
    assert '"code":"invalid_input"' in refused
    assert "order" in refused
    assert waiting.startswith("waiting\n")
    assert "'arguments': {'order': '1017', 'cents': 4900}" in waiting
    assert '"code":"digest_mismatch"' in mismatch
    assert killed == "waiting\n"
    assert decided == "modified\ncompleted\norder 1017: 2500 cents\n2\n"
    assert re.search(r"retry-after: [1-9]", job, re.IGNORECASE)
    assert re.search(r'etag: "\d+"', job, re.IGNORECASE)
    assert '"code":"invalid_value"' in steered
    assert steered.endswith("{'per_second': 500}\ncompleted\n{'checked': 100}\n")
    assert re.search(r"^told: generation.completed /v1/generations/gen_\w+$", webhook, re.MULTILINE)
    assert "<title>Service bot</title>" in page
    assert end == ""


def test_no_block_is_left_out() -> None:
    """The page has no code that is of another kind than those that are run."""
    fences = re.findall(r"^```(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) == {"sh", "python"}
    assert set(fences[1::2]) == {""}


def _script() -> str:
    """The page as one script; a line of its own ends each block's output."""
    text = PAGE.read_text(encoding="utf-8")
    for port in ("8000", "8001", "8002"):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{(free := free_port())}")
        text = text.replace(f"http.server {port}", f"http.server {free}").replace(f'", {port})', f'", {free})')
    parts = ["set -u"]
    for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if kind == "python":
            name = block.partition("\n")[0].removeprefix("# ")
            parts.append(f"cat > {name} <<'END OF FILE'\n{block}END OF FILE")
        else:
            parts.append(f"{block}echo; echo END OF BLOCK")
    return "\n".join(parts)


def _run(script: str, database: TestDatabase, copy: Path) -> list[str]:
    url = re.search(r"^U=http://(.*)$", script, re.MULTILINE)
    assert url is not None
    ours = ("TOKENTAPE_", "OPENAI_", "ANTHROPIC_", "MAKE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {"TOKENTAPE_DATABASE_URL": database.app_url, "TOKENTAPE_BIND": url[1]}
    # A session of its own: what the script left running is ended with it, whatever became of the script.
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=copy,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        log = copy.parent / "my-bot" / "server.log"
        print(log.read_text()[-5_000:] if log.exists() else "no server.log")  # noqa: T201  # pytest shows it
    print(out, err, sep="\n---\n")  # noqa: T201
    return [part.lstrip("\n") for part in re.split(r"\n?END OF BLOCK\n", out)[:-1]]
