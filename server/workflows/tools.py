"""Tools: functions that a model may call, and those that a client runs.

Owns what is declared of a tool, the check of a call's arguments, and whether a person has to be asked. Must not
know how a call is proposed, decided on, run or recorded. Asking is the safe side: whatever goes wrong while that
is found out, a person is asked.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, overload

from server import logs
from server.upstream import TOOL_NAME, ToolSpec
from server.workflows.arguments import Arguments
from server.workflows.handle import RunHandle
from server.workflows.misfit import Misfit

__all__ = ["AnyTool", "BadArguments", "ClientTool", "RunHandle", "Tool", "ToolError", "tool"]

log = logs.get("tools")

EXPIRES = 3600.0
"""Seconds in which a person may decide, where nothing else is declared."""
SECONDS = 300.0
"""Seconds a tool may run, where nothing else is declared."""
MOST_SECONDS = 366 * 24 * 3600.0
"""A year: beyond some thousand of them, no date is left to expire at."""
EMPTY_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}}

Policy: TypeAlias = Literal["always", "never"] | Callable[..., bool]


class ToolError(Exception):
    """An app's own words for whoever reads the conversation, and for the model: why a tool or a workflow failed.

    Raise it with one sentence. The text of any other exception stays in the server's own log, for it may hold an
    address, a path or a row that no reader is to see.
    """


class BadArguments(Misfit):
    """The arguments of a call do not fit its tool; who wrote them (a model, a person) is to blame."""


class Tool:
    """A function of the app that a model may call, made by `@tool`. `function` is what was decorated.

    `schema`: JSON Schema of its arguments. `expires`: seconds a person may take to decide, None without end.
    `seconds`: most time it may run. `idempotent`: may be run again when nobody knows whether it took effect.
    """

    client: Literal[False] = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        approval: Policy = "always",
        idempotent: bool = False,
        expires: float | None = EXPIRES,
        seconds: float = SECONDS,
    ) -> None:
        if not inspect.isfunction(function):
            raise TypeError(f"@tool belongs on a function, not on {function!r}")
        where = f"the tool {function.__qualname__}"
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{where} yields, but a tool has one result: return it")
        self.function = function
        self.name = function.__name__ if name is None else name
        if not isinstance(self.name, str) or re.fullmatch(TOOL_NAME, self.name) is None:
            raise TypeError(f"{where}: the name {self.name!r} has to be 1 to 64 letters, digits, _ or -")
        self.description = (inspect.getdoc(function) or "").strip()
        if not self.description:
            raise TypeError(f"{where} needs a docstring: by it a model knows what the tool is for")
        if expires is not None:
            _check_seconds(expires, f"{where}: expires")
        _check_seconds(seconds, f"{where}: seconds")
        self.expires = expires
        self.seconds = seconds
        self.idempotent = idempotent
        self.is_async = inspect.iscoroutinefunction(function)
        self._arguments = Arguments(function, where)
        self.schema: Mapping[str, Any] = self._arguments.schema
        _check_policy(approval, self._arguments.names, where)
        self._approval = approval

    def __repr__(self) -> str:
        return f"<tool {self.name}>"

    def needs_approval(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a person has to be asked first. Never raises; asks when in doubt.

        A predicate gets the checked arguments by name, with the function's defaults for those that did not come.
        Only its `False` lets the call pass.
        """
        if not callable(self._approval):
            return self._approval != "never"
        try:
            values = self._arguments.read(arguments, BadArguments)
            return self._approval(**{**self._arguments.defaults, **values}) is not False
        except Exception as error:
            log.warning("approval unclear, so a person is asked", tool=self.name, why=type(error).__name__)
            return True

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The very same arguments, once they are known to fit, with the function's defaults for those that did
        not come: what a person decides on is all that the function is called with.

        Raises `BadArguments`, naming the fields, and whatever the app's own types raise.
        """
        self._arguments.read(arguments, BadArguments)
        return self._arguments.fill(arguments)

    def bind(self, arguments: Mapping[str, Any], run: RunHandle) -> Callable[[], Any]:
        """The call, ready to be made: the function with the Python values of its arguments, and the run.

        It returns an awaitable when `is_async`; else it may block. Raises `BadArguments`.
        """
        values = self._arguments.read(arguments, BadArguments)
        return functools.partial(self.function, **values, **dict.fromkeys(self._arguments.runs, run))

    def spec(self) -> ToolSpec:
        """What a model is told of it."""
        return ToolSpec(self.name, self.description, self.schema)


class ClientTool:
    """A tool that a client runs, declared in a request: a mapping that was checked where it came in.

    `name`, `description`, and maybe `parameters` (a JSON Schema of an object), `approval`, `expires`.
    """

    client: Literal[True] = True
    idempotent = True
    seconds: None = None

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self.name: str = declared["name"]
        self.description: str = declared["description"]
        schema: Mapping[str, Any] | None = declared.get("parameters")
        self.schema = EMPTY_SCHEMA if schema is None else schema
        self.expires: float | None = declared.get("expires") or EXPIRES
        self._asks = declared.get("approval") != "never"

    def __repr__(self) -> str:
        return f"<client's tool {self.name}>"

    def needs_approval(self, arguments: Mapping[str, Any]) -> bool:
        """As the client declared."""
        return self._asks

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, whatever they are: who runs the tool holds them against its schema. With the defaults
        that its schema tells, for those that did not come.
        """
        properties = self.schema.get("properties")
        fields = properties.items() if isinstance(properties, Mapping) else ()
        told = {name: field["default"] for name, field in fields if _tells_default(field)}
        return {**arguments, **{name: value for name, value in told.items() if name not in arguments}}

    def spec(self) -> ToolSpec:
        """What a model is told of it."""
        return ToolSpec(self.name, self.description, self.schema)


def _tells_default(field: Any) -> bool:
    return isinstance(field, Mapping) and "default" in field


AnyTool: TypeAlias = Tool | ClientTool


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    approval: Policy = "always",
    idempotent: bool = False,
    expires: float | None = EXPIRES,
    seconds: float = SECONDS,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Callable[..., Any] | None = None, /, **declared: Any) -> Any:
    """Makes a tool of a function, async or plain; bare, or with what differs from the defaults.

    The docstring tells a model what it is for; each parameter has a type that JSON can be read as, and one of
    the type `Run` is given the run. `approval`: `always` (a person is asked before each call), `never`, or a
    predicate of the arguments, whose True asks. `expires`: seconds for the decision, None without end.
    `seconds`: most time it may run. `idempotent`: after a crash in mid-call it may simply run again.

    Raises `TypeError` at once, naming the function, for what could not be called.
    """
    if function is not None:
        return Tool(function)
    return functools.partial(Tool, **declared)


def _check_seconds(value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= MOST_SECONDS:
        raise TypeError(f"{what} has to be seconds, more than 0 and at most {MOST_SECONDS:.0f}, not {value!r}")


def _check_policy(approval: Any, names: tuple[str, ...], where: str) -> None:
    if not callable(approval):
        if approval not in ("always", "never"):
            raise TypeError(f'{where}: approval is "always", "never" or a function, not {approval!r}')
        return
    if inspect.iscoroutinefunction(approval) or inspect.iscoroutinefunction(type(approval).__call__):
        raise TypeError(f"{where}: the approval's function cannot be async: it has to answer at once")
    try:
        inspect.signature(approval).bind(**dict.fromkeys(names))
    except TypeError as error:
        # Found out at a call, it would only be one more person asked, and nobody would know why.
        raise TypeError(
            f"{where}: the approval's function has to take the tool's arguments ({', '.join(names)}): {error}"
        ) from error
    except ValueError:  # built in, without a signature to look at
        return
