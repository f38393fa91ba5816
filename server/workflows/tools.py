"""Tools: functions of the app that a model may call, and tools that a client runs.

Owns what is declared of a tool, the check of a call's arguments, and whether a person has to approve the call.
Must not know how a call is proposed, decided on, run or recorded. When a tool's own rule for approvals fails, a
person is asked: that is the safe side.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, overload

from server.observability import logs
from server.providers import TOOL_NAME, ToolSpec
from server.workflows.tool_arguments import Arguments, InjectedRun, TypeMismatch

__all__ = ["AnyTool", "BadArguments", "ClientTool", "InjectedRun", "Tool", "ToolError", "tool"]

log = logs.get("tools")

EXPIRES = 3600.0
"""The default of `expires`: seconds in which a person may decide."""
SECONDS = 300.0
"""The default of `seconds`: how long a tool may run."""
MAX_APPROVERS = 5
"""The most people who have to approve one call."""
MAX_SECONDS = 366 * 24 * 3600.0
"""A year. After some thousand years Python has no date at which to expire."""
EMPTY_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}}

Policy: TypeAlias = Literal["always", "never"] | Callable[..., bool]


class ToolError(Exception):
    """Raise this in a tool or a workflow to tell the model, and all readers of the conversation, why it failed.

    Its text, one sentence, becomes part of the log that clients read. The text of any other exception stays in the
    server's own log, because it may hold an address, a path or a database row that readers must not see.

        raise ToolError("The order was paid back already.")
    """


class BadArguments(TypeMismatch):
    """The arguments of a call do not fit its tool; the model or the person that wrote them is to blame."""


class Tool:
    """A function of the app that a model may call, made by `@tool`. `function` is the decorated function.

    `schema`: JSON Schema of its arguments. `expires`: seconds in which a person may decide on a call; None: no
    limit. `seconds`: how long it may run. `idempotent`: it may run again when nobody knows whether it took effect.
    `approvers`: how many people have to approve a call that needs approval; `another_person`: whoever requested
    the generation is none of them.
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
        approvers: int = 1,
        another_person: bool = False,
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
        _check_people(approvers, another_person, approval, where)
        self.expires = expires
        self.seconds = seconds
        self.approvers = approvers
        self.another_person = another_person
        self.idempotent = idempotent
        self.is_async = inspect.iscoroutinefunction(function)
        self._arguments = Arguments(function, where)
        self.schema: Mapping[str, Any] = self._arguments.schema
        _check_policy(approval, self._arguments.names, where)
        self._approval = approval

    def __repr__(self) -> str:
        return f"<tool {self.name}>"

    def needs_approval(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a person has to approve the call. Raises no error: where the predicate fails, the answer is yes.

        A predicate gets the validated arguments by name, and the function's defaults for missing ones. Only the
        value `False` lets the call run without a person.
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
        """The arguments, validated and unchanged, and the function's defaults for missing ones.

        So a person who decides on the result sees everything that the function will be called with. Raises
        `BadArguments`, which names the fields, and what the app's own types raise.
        """
        self._arguments.read(arguments, BadArguments)
        return self._arguments.fill(arguments)

    def bind(self, arguments: Mapping[str, Any], run: InjectedRun) -> Callable[[], Any]:
        """The function with the Python values of its arguments and the run; call the result without arguments.

        That returns an awaitable when `is_async`; else it may block. Raises `BadArguments`.
        """
        values = self._arguments.read(arguments, BadArguments)
        return functools.partial(self.function, **values, **dict.fromkeys(self._arguments.runs, run))

    def spec(self) -> ToolSpec:
        """What a model is told of the tool."""
        return ToolSpec(self.name, self.description, self.schema)


class ClientTool:
    """A tool that a client runs, declared in a request. The request's validation has checked `declared`.

    `declared` has `name` and `description`, and may have `parameters` (a JSON Schema of an object), `approval`,
    `expires` (seconds), `approvers` and `another_person`.
    """

    client: Literal[True] = True
    idempotent = True
    seconds: None = None

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self.name: str = declared["name"]
        self.description: str = declared["description"]
        schema: Mapping[str, Any] | None = declared.get("parameters")
        self.schema = EMPTY_SCHEMA if schema is None else schema
        expires: float | None = declared.get("expires")
        self.expires: float | None = EXPIRES if expires is None else expires
        self._asks = declared.get("approval") != "never"
        self.approvers: int = declared.get("approvers") or 1
        self.another_person: bool = declared.get("another_person") or False

    def __repr__(self) -> str:
        return f"<client's tool {self.name}>"

    def needs_approval(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a person has to approve each call: as the client declared."""
        return self._asks

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, and the defaults that the schema declares for missing ones.

        They are not validated: the client that runs the tool does that.
        """
        properties = self.schema.get("properties")
        fields = properties.items() if isinstance(properties, Mapping) else ()
        told = {name: field["default"] for name, field in fields if _has_default(field)}
        return {**arguments, **{name: value for name, value in told.items() if name not in arguments}}

    def spec(self) -> ToolSpec:
        """What a model is told of the tool."""
        return ToolSpec(self.name, self.description, self.schema)


def _has_default(field: Any) -> bool:
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
    approvers: int = 1,
    another_person: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Callable[..., Any] | None = None, /, **declared: Any) -> Any:
    """Makes a function a tool that a model may call: `@tool`, or `@tool(…)` with options.

        @tool(approval=lambda order, cents: cents > 1_000, seconds=30)
        async def refund(order: str, cents: int, run: Run) -> str:
            "Pays an order back."
            return await pay_back(order, cents)

    The function is async, or plain and then run in a thread. Its docstring tells a model what the tool is for.
    Each parameter has a type that pydantic can read from JSON; a parameter of the type `Run` gets the run instead.
    What it returns is made JSON for the model.

    `name`: what the model calls it; by default the function's name.
    `approval`: "always" (the default: a person approves each call), "never", or a plain function of the same
    arguments, which returns True where a person has to approve.
    `approvers`: how many different people have to approve a call, 1 to 5; one who rejects it is enough.
    `another_person`: True: whoever asked for the generation may not approve its calls.
    `expires`: seconds in which a person may decide; None: no limit. Default 3600.
    `seconds`: how long a call may run. Default 300.
    `idempotent`: True: after a crash in the middle of a call the call may be made again.

    Raises `TypeError` when the module is imported, with the function's name, where it could not be called.
    """
    if function is not None:
        return Tool(function)
    return functools.partial(Tool, **declared)


def _check_seconds(value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= MAX_SECONDS:
        raise TypeError(f"{what} has to be seconds, more than 0 and at most {MAX_SECONDS:.0f}, not {value!r}")


def check_approvers(approvers: Any, another_person: Any) -> str | None:
    """What is wrong with a rule of who has to approve; None: nothing."""
    if isinstance(approvers, bool) or not isinstance(approvers, int) or not 1 <= approvers <= MAX_APPROVERS:
        return f"approvers has to be a number of people from 1 to {MAX_APPROVERS}, not {approvers!r}"
    if not isinstance(another_person, bool):
        return f"another_person has to be True or False, not {another_person!r}"
    return None


def _check_people(approvers: Any, another_person: Any, approval: Any, where: str) -> None:
    wrong = check_approvers(approvers, another_person)
    if wrong is None and approval == "never" and (approvers > 1 or another_person):
        wrong = 'approvers and another_person have no meaning with approval="never"'
    if wrong is not None:
        raise TypeError(f"{where}: {wrong}")


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
        # Without this check each call would fail here and ask a person, and nobody would know why.
        raise TypeError(
            f"{where}: the approval's function has to take the tool's arguments ({', '.join(names)}): {error}"
        ) from error
    except ValueError:  # a built-in function may have no signature
        return
