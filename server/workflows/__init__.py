"""What apps declare: workflows and tools, and the modules that declare them.

Owns the two decorators, what each makes of a function's types (schemas, checks, defaults), the digest of a call's
arguments, and the import of apps' modules. Knows pydantic. Must not know trio, HTTP, the log or how a run goes: it
decides what fits a declared type, and others ask people, wait, run and write.
"""

from .file_ref import FileRef, find_file_refs
from .json_values import NotCanonical, NotJson, digest, to_jsonable
from .registry import BadModule, Registry, load
from .tool_arguments import InjectedRun, TypeMismatch
from .tools import AnyTool, BadArguments, ClientTool, Tool, ToolError, check_approvers, tool
from .workflow import BadInput, BadResult, BadValue, UnknownParameter, Workflow, workflow

__all__ = [
    "AnyTool",
    "BadArguments",
    "BadInput",
    "BadModule",
    "BadResult",
    "BadValue",
    "ClientTool",
    "FileRef",
    "InjectedRun",
    "NotCanonical",
    "NotJson",
    "Registry",
    "Tool",
    "ToolError",
    "TypeMismatch",
    "UnknownParameter",
    "Workflow",
    "check_approvers",
    "digest",
    "find_file_refs",
    "load",
    "to_jsonable",
    "tool",
    "workflow",
]
