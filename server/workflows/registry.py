"""The workflows and tools of the modules a server was started with, by name.

Owns what counts as declared in a module, and that a name means one thing. Each process loads the same modules, so
that any of them can take a lost run over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from server.workflows.importing import BadModule, module_of
from server.workflows.tools import Tool
from server.workflows.workflow import Workflow

__all__ = ["BadModule", "Registry", "load"]

T = TypeVar("T", Workflow, Tool)


@dataclass(frozen=True, slots=True)
class Registry:
    """What apps declared. Without arguments: nothing."""

    workflows: Mapping[str, Workflow] = field(default_factory=lambda: MappingProxyType({}))
    tools: Mapping[str, Tool] = field(default_factory=lambda: MappingProxyType({}))


def load(modules: Sequence[str]) -> Registry:
    """Imports each `package.module` and collects the workflows and tools that are attributes of it.

    Names that a module imported count too. Raises `BadModule`: there is none, it fails, it declares nothing, two
    different things have one name.
    """
    workflows: dict[str, Workflow] = {}
    tools: dict[str, Tool] = {}
    for name in modules:
        declared = vars(module_of(name)).values()
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
            f"Two {kind} are called {one.name}: {_place(other)} and {_place(one)}. Rename one of them."
        )


def _place(one: Workflow | Tool) -> str:
    function = one.function
    return f"{function.__module__}.{function.__qualname__} (line {function.__code__.co_firstlineno})"
