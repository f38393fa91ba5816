"""An app's module imported by its name, and why it could not be, in words for the one who started the server.

Owns the search path, the place in the app's own files where an import failed, and the guess at what a mistyped
name meant. Must not know what is declared in a module.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType

_OURS = Path(__file__).resolve().parents[1]
_DEEPEST = 4
_MOST_FILES = 2_000


class BadModule(Exception):
    """A module named at start cannot be used; who named or wrote it is to blame. The text says the next step."""


def module_of(name: str) -> ModuleType:
    """The module, imported from the present folder or from wherever Python looks. Raises `BadModule`."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadModule(f"{name!r} is no module's name. Write it as an import does, package.module.{_near(name)}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # an installed command's own path begins elsewhere
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        raise BadModule(
            f"There is no module {name} in {here}, nor elsewhere on Python's path.{_near(name)}"
        ) from None
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> BadModule:
    if isinstance(error, SyntaxError) and error.filename is not None:
        said, place = error.msg, f"{error.filename}, line {error.lineno}"
    else:
        said, place = str(error), _app_place(name, error.__traceback__)
    said = f"{type(error).__name__}: {said}".rstrip(": ")
    return BadModule(f"{name} cannot be imported. {said}" + (f" ({place})" if place else ""))


def _app_place(name: str, trace: TracebackType | None) -> str:
    """File and line of the last frame that is the app's; what it called there is not its own."""
    here, package, found = Path.cwd(), name.partition(".")[0], ""
    for frame, line in traceback.walk_tb(trace):
        file = Path(frame.f_code.co_filename)
        belongs = str(frame.f_globals.get("__name__", "")).partition(".")[0] == package
        local = file.is_relative_to(here) and "site-packages" not in file.parts
        if (belongs or local) and not file.is_relative_to(_OURS):
            found = f"{file}, line {line}"
    return found


def _near(name: str) -> str:
    wanted = name.removesuffix(".py").replace("/", ".").replace("\\", ".").strip(".")
    known = dict(_modules(Path.cwd()))
    close = difflib.get_close_matches(wanted, known, n=1)
    return f" Did you mean {close[0]} ({known[close[0]]})?" if close else ""


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """The modules in the folder, with their files; so many of them as a person has, not a whole disk's."""
    seen = 0
    for root, folders, files in os.walk(folder):
        below = Path(root).relative_to(folder).parts
        # Neither hidden folders nor installed packages are what somebody names here.
        folders[:] = sorted(one for one in folders if one.isidentifier() and one != "node_modules")
        if len(below) >= _DEEPEST:
            folders.clear()
        for file in files:
            seen += 1
            if seen > _MOST_FILES:
                return
            stem, ending = os.path.splitext(file)
            if ending == ".py" and stem.isidentifier():
                parts = below if stem == "__init__" else (*below, stem)
                if parts:
                    yield ".".join(parts), Path(*below, file)
