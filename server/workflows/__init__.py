"""What apps declare: workflows, tools, and the modules they stand in.

Owns the two decorators, what each makes of a function's types (schemas, checks, defaults), the digest of a call's
arguments, and the import of apps' modules. Knows pydantic; must not know trio, HTTP, the log or how a run goes:
it says what fits and what not, and others ask, wait, run and write.
"""

from .digest import NotCanonical, digest
from .handle import RunHandle
from .misfit import Misfit
from .plain import NotJson, clean, to_jsonable
from .registry import BadModule, Registry, load
from .tools import AnyTool, BadArguments, ClientTool, Tool, ToolError, tool
from .workflow import BadInput, BadResult, BadValue, UnknownParameter, Workflow, workflow

__all__ = [
    "AnyTool",
    "BadArguments",
    "BadInput",
    "BadModule",
    "BadResult",
    "BadValue",
    "ClientTool",
    "Misfit",
    "NotCanonical",
    "NotJson",
    "Registry",
    "RunHandle",
    "Tool",
    "ToolError",
    "UnknownParameter",
    "Workflow",
    "clean",
    "digest",
    "load",
    "to_jsonable",
    "tool",
    "workflow",
]
