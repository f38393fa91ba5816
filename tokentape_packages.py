"""The names of Tokentape's top-level packages, and what happens where an app has a module of such a name.

The wheel installs `server`, `eventstore`, `migrations` and `tokentape` (decision 0003 in docs/decisions).
An app may have a `server.py` or a `migrations/` too, and PYTHONPATH may put its folder first: Python would then
import the app's module in place of ours. So the command `tokentape` starts here: `main` first makes the names mean
Tokentape's packages in its process, and then runs the command. `--workflows` refuses a module of such a name and
says which file to rename. This file imports nothing but the standard library.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("eventstore", "migrations", "server", "tokentape")
FOLDER = Path(__file__).resolve().parent
"""Where the packages stand: the folder of installed packages, or the source tree."""


class OwnPackagesFinder(MetaPathFinder):
    """Finds the packages of `NAMES` in `FOLDER`, and nothing else; asked before Python looks along its path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What an import of `fullname` finds; None: Python goes on looking."""
        return PathFinder.find_spec(fullname, [str(FOLDER)]) if fullname in NAMES else None


def prefer_own_packages() -> None:
    """From now on, in this process, the names mean Tokentape's packages, whatever comes first on Python's path."""
    sys.meta_path.insert(0, OwnPackagesFinder())


def main() -> None:
    """The command `tokentape`."""
    prefer_own_packages()
    from server.cli import main  # not earlier: it could be the app's `server` that Python finds

    main()


def find_other_module(name: str) -> Path | None:
    """The file (of a package: the folder) of a module that has this top-level name and is not Tokentape's.

    Looks in the present folder first, then along Python's path; imports nothing. None: there is no such module.
    """
    for entry in (os.getcwd(), *sys.path):
        folder = Path(entry).resolve()
        spec = PathFinder.find_spec(name, [str(folder)]) if folder != FOLDER else None
        if spec is not None and spec.submodule_search_locations:
            return folder / name
        if spec is not None and spec.origin is not None:
            return Path(spec.origin)
    return None


def explain_import_error(error: ImportError) -> ImportError:
    """The error of an import of Tokentape's own; where an app's module is to blame, one that says so."""
    name = (error.name or "").partition(".")[0]
    other = find_other_module(name) if name in NAMES else None
    if other is None:
        return error
    return ImportError(
        f"{name} is the name of a package of Tokentape's own, and Python found another module of that name first. "
        f"Rename {other}, or let Python find Tokentape first.",
        name=name,
    )
