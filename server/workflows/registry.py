"""The workflows and tools of the modules that a server was started with, and the import of these modules.

`load` imports each module from the present folder or along Python's path, and collects what it declares; a name
means one thing. All processes load the same modules, so that each can take over a lost run. Where an import fails,
the error tells whoever started the server which line of the app failed, or what a mistyped name may have meant.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import TypeVar

import tokentape_packages
from server.workflows.tools import Tool
from server.workflows.workflow import Workflow

_SERVER_FOLDER = Path(__file__).resolve().parents[1]
_DEEPEST = 4
_MAX_FILES = 2_000


class BadModule(Exception):
    """A module cannot be used; whoever named or wrote it is to blame. The text says what to do next."""


def import_module(name: str) -> ModuleType:
    """Imports a module from the present folder or along Python's path. Raises `BadModule`."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadModule(
            f"{name!r} is no module's name. Write it as an import does, package.module.{_suggest(name)}"
        )
    top = name.partition(".")[0]
    if top in tokentape_packages.NAMES:
        raise BadModule(_taken_name(name, top))
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # the path of an installed command begins with the command's own folder
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _explain_failure(name, error) from error
        raise BadModule(
            f"There is no module {name} in {here}, nor elsewhere on Python's path.{_suggest(name)}"
        ) from None
    except (Exception, SystemExit) as error:
        raise _explain_failure(name, error) from error


def _taken_name(name: str, top: str) -> str:
    """Why a module cannot be loaded whose name is that of a package of ours."""
    other = tokentape_packages.find_other_module(top)
    told = f"{name} cannot be loaded: {top} is the name of a package of Tokentape's own"
    if other is None:
        return f"{told}. Name a module of your app."
    return f"{told}, and a process has one module of a name. Rename {other}, and load it by its new name."


def _explain_failure(name: str, error: BaseException) -> BadModule:
    if isinstance(error, SyntaxError) and error.filename is not None:
        said, place = error.msg, f"{error.filename}, line {error.lineno}"
    else:
        said, place = str(error), _app_location(name, error.__traceback__)
    said = f"{type(error).__name__}: {said}".rstrip(": ")
    told = f"{name} cannot be imported. {said}" + (f" ({place})" if place else "")
    missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    other = tokentape_packages.find_other_module(missing) if missing in tokentape_packages.NAMES else None
    if other is not None:
        told += f". Here the name {missing} is a package of Tokentape's own, not {other}. Rename that."
    return BadModule(told)


def _app_location(name: str, trace: TracebackType | None) -> str:
    """File and line of the innermost frame that belongs to the app, not to what the app called there."""
    here, package, found = Path.cwd(), name.partition(".")[0], ""
    for frame, line in traceback.walk_tb(trace):
        file = Path(frame.f_code.co_filename)
        belongs = str(frame.f_globals.get("__name__", "")).partition(".")[0] == package
        local = file.is_relative_to(here) and "site-packages" not in file.parts
        if (belongs or local) and not file.is_relative_to(_SERVER_FOLDER):
            found = f"{file}, line {line}"
    return found


def _suggest(name: str) -> str:
    wanted = name.removesuffix(".py").replace("/", ".").replace("\\", ".").strip(".")
    known = dict(_modules(Path.cwd()))
    close = difflib.get_close_matches(wanted, known, n=1)
    return f" Did you mean {close[0]} ({known[close[0]]})?" if close else ""


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """The modules in the folder, with their files. Stops early: the folder may be the root of a disk."""
    seen = 0
    for root, folders, files in os.walk(folder):
        below = Path(root).relative_to(folder).parts
        # Nobody means a module in a hidden folder or of an installed package.
        folders[:] = sorted(one for one in folders if one.isidentifier() and one != "node_modules")
        if len(below) >= _DEEPEST:
            folders.clear()
        for file in files:
            seen += 1
            if seen > _MAX_FILES:
                return
            stem, ending = os.path.splitext(file)
            if ending == ".py" and stem.isidentifier():
                parts = below if stem == "__init__" else (*below, stem)
                if parts:
                    yield ".".join(parts), Path(*below, file)


T = TypeVar("T", Workflow, Tool)


@dataclass(frozen=True, slots=True)
class Registry:
    """What the loaded modules declare, by name. Without arguments: nothing."""

    workflows: Mapping[str, Workflow] = field(default_factory=lambda: MappingProxyType({}))
    tools: Mapping[str, Tool] = field(default_factory=lambda: MappingProxyType({}))


def load(modules: Sequence[str]) -> Registry:
    """Imports each `package.module` and collects the workflows and tools that are its attributes.

    What a module imports from another one counts, too. Raises `BadModule` where there is no such module, its
    import fails, it declares nothing, or two different things have one name.
    """
    workflows: dict[str, Workflow] = {}
    tools: dict[str, Tool] = {}
    for name in modules:
        declared = vars(import_module(name)).values()
        here = [one for one in declared if isinstance(one, Workflow | Tool)]
        if not here:
            raise BadModule(
                f"{name} declares no workflow and no tool. Both have to be names of the module itself: "
                "@workflow(…) or @tool on its functions, or an import of them."
            )
        for one in here:
            if isinstance(one, Workflow):
                _add(workflows, one, "workflows")
            else:
                _add(tools, one, "tools")
    return Registry(MappingProxyType(workflows), MappingProxyType(tools))


def _add(known: dict[str, T], one: T, kind: str) -> None:
    other = known.setdefault(one.name, one)
    if other is not one:
        raise BadModule(
            f"Two {kind} are called {one.name}: {_location(other)} and {_location(one)}. Rename one of them."
        )


def _location(one: Workflow | Tool) -> str:
    function = one.function
    return f"{function.__module__}.{function.__qualname__} (line {function.__code__.co_firstlineno})"
