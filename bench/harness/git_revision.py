"""The code under test: this checkout, or a former revision of it, unpacked beside it for the same run.

Both run on this environment's Python and its packages; server and migrations come from the revision's own folder.
It knows git and folders; it must not know what is measured.
"""

import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.child_process import ROOT

BEFORE, NOW = "before", "now"
ARCHIVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Revision:
    """`name`: the heading of its column (`before` or `now`); `folder`: its code."""

    name: str
    folder: Path

    def knows(self, setting: str) -> bool:
        """Whether its server knows a setting (`TOKENTAPE_…`). A server refuses to start with an unknown one."""
        field = setting.removeprefix("TOKENTAPE_").lower()
        return any(
            re.search(rf"^    {field}: ", file.read_text("utf-8"), re.MULTILINE)
            for file in self.folder.glob("server/config/*.py")
        )


PRESENT = Revision(NOW, ROOT)


class UnknownRevision(Exception):
    """`--against` names no commit, or this is not a git checkout. Whoever gave the name is to blame."""


# Python 3.14 warns without a filter; Python 3.11.2 (Debian 12) has none. The archive comes from our own git.
_EXTRACTION: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def revisions(against: str, folder: Path) -> list[Revision]:
    """What a run compares, in the order of its turns: the former revision (if `against` names one), the present.

    `folder` takes the former one's code and has to go with the benchmark. Raises `UnknownRevision`.
    """
    return [unpack(against, folder), PRESENT] if against else [PRESENT]


def unpack(name: str, folder: Path) -> Revision:
    """A revision's files, without git's own, in a folder below `folder`. Raises `UnknownRevision`."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    place = folder / f"code-{commit[:12]}"
    if not place.exists():
        archive = folder / f"{commit[:12]}.tar"
        archive.write_bytes(_git("archive", "--format=tar", commit))
        with tarfile.open(archive) as tar:
            tar.extractall(place, **_EXTRACTION)
        archive.unlink()
    return Revision(BEFORE, place)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, timeout=ARCHIVE_SECONDS, check=False)
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip() or "no such revision"
        raise UnknownRevision(f"git {arguments[0]} {arguments[-1]}: {why}")
    return done.stdout
