"""The client programs under test: the code blocks of docs/clients*.md, and those of variants.md.

A block's first line is a comment with its file name. It knows where a program's packages are, and whether they are
there; it runs nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.harness.servers import ROOT

HERE = Path(__file__).parent
DOCS = tuple(ROOT / "docs" / name for name in ("clients.md", "clients-javascript.md", "clients-python.md"))
PAGES = (*DOCS, HERE / "variants.md")
NODE_FOLDER = HERE / "node"
OLDEST_NODE = 20
BLOCK = re.compile(r"^```(\w+)\n((?://|#) (\S+?\.\w+)\b.*\n(?:.*\n)*?)^```$", re.MULTILINE)


@cache
def programs() -> dict[str, str]:
    """All of them, by file name."""
    found = [match for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert len({match[3] for match in found}) == len(found), "two programs of one name"
    return {match[3]: match[2] for match in found}


def write(folder: Path, name: str, replacing: Sequence[tuple[str, str]] = ()) -> Path:
    """One program as a file, beside its packages and the programs it imports; `replacing` makes it another's."""
    text = programs()[name]
    for old, new in replacing:
        assert old in text, (name, old)
        text = text.replace(old, new)
    for imported in re.findall(r'from "\./(.+?)"', text):
        write(folder, imported)
    if name.endswith(".mjs") and not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    if name == "sseclient_0.py":  # sseclient-py's package has the same name, and hides this module otherwise
        (folder / "sseclient.py").symlink_to(Path(sysconfig.get_path("purelib")) / "sseclient.py")
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def command(asked: Sequence[tuple[Path, str]]) -> list[str]:
    """What runs programs for addresses: several programs of Python and shell, or a single one of Node."""
    programs = {program for program, _ in asked}
    if {program.suffix for program in programs} <= {".py", ".sh"}:
        return [sys.executable, str(HERE / "run.py"), json.dumps([(str(program), url) for program, url in asked])]
    (program,) = programs
    node = shutil.which("node")
    assert node is not None
    return [node, str(HERE / "run.mjs"), str(program), json.dumps([url for _, url in asked])]


@cache
def missing_node() -> str | None:
    """Why programs for Node cannot run here; None when they can."""
    node = shutil.which("node")
    if node is None:
        return "node is not installed (tools/test-needs installs it as root)"
    told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    if int(told.lstrip("v").split(".")[0]) < OLDEST_NODE:
        return f"the libraries need Node {OLDEST_NODE} or newer, and this is {told.strip()}"
    lock, installed = NODE_FOLDER / "package-lock.json", NODE_FOLDER / "node_modules" / ".installed-lock"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        return "tests/real_clients/node has no packages yet, or old ones (tools/test-needs runs npm ci)"
    return None
