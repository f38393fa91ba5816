"""Workflows: async functions of one run, with the types of what goes in, what comes out and what is steered.

Owns what `@workflow` declares, and the check of inputs, results and changes against it. Must not know how a run
goes. What a request brings is read as JSON, strictly (`misfit`); what the function returns is the app's own.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, TypeAdapter, ValidationError

from server.workflows.misfit import Misfit, adapter_of, read
from server.workflows.plain import NotJson, to_jsonable
from server.workflows.steering import BadValue, Steering, UnknownParameter

__all__ = ["BadInput", "BadResult", "BadValue", "UnknownParameter", "Workflow", "workflow"]

NAME = r"[a-z][a-z0-9_.-]{0,99}"

OnCrash: TypeAlias = Literal["restart", "fail"]
Function: TypeAlias = Callable[[Any], Awaitable[Any]]


class BadInput(Misfit):
    """The input does not fit the workflow; the client is to blame."""


class BadResult(Misfit):
    """What the workflow returned is no JSON, or not what it declares; the app is to blame."""


class Workflow:
    """An app's workflow, made by `@workflow`. `function` is what was decorated.

    `on_crash`: what becomes of a run whose process is lost, unless the request says.
    """

    def __init__(
        self,
        name: str,
        function: Function,
        *,
        input: Any = None,
        result: Any = None,
        steering: type[BaseModel] | None = None,
        on_crash: OnCrash = "restart",
    ) -> None:
        if not isinstance(name, str) or re.fullmatch(NAME, name) is None:
            raise TypeError(
                f"the workflow's name {name!r} has to begin with a small letter and go on with at most 99 small "
                'letters, digits, ".", "_" or "-": @workflow("name")'
            )
        where = f"the workflow {name}"
        _check_function(function, where)
        if on_crash not in ("restart", "fail"):
            raise TypeError(f'{where}: on_crash is "restart" or "fail", not {on_crash!r}')
        self.name = name
        self.function = function
        self.on_crash: OnCrash = on_crash
        self._input = None if input is None else adapter_of(input, f"{where}, input")
        self._result = None if result is None else adapter_of(result, f"{where}, result")
        self._steering = None if steering is None else Steering(steering, f"{where}, steering")

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    @property
    def steering(self) -> type[BaseModel] | None:
        """The model of what people steer; None: nothing."""
        return None if self._steering is None else self._steering.model

    def read_input(self, value: Any) -> Any:
        """The input as the function gets it: any JSON as it is, where no type is declared. Raises `BadInput`."""
        return value if self._input is None else read(self._input, value, BadInput)

    def make_result(self, value: Any) -> Any:
        """The JSON of what the function returned, its texts repaired. Raises `BadResult`.

        An instance of the declared type is taken at its word; anything else is made JSON and has to fit.
        """
        try:
            return to_jsonable(value if self._result is None else _fitting(self._result, value))
        except NotJson as error:
            raise BadResult([{"field": "", "message": str(error).rstrip(".")}]) from error

    def initial_steering(self) -> dict[str, Any]:
        """The parameters' first values, as JSON by name; empty where nothing is steered."""
        return {} if self._steering is None else self._steering.initial()

    def steer(self, current: Mapping[str, Any], name: str, value: Any) -> Any:
        """The JSON value to record for a change of one parameter, judged beside the current values of all.

        Raises `UnknownParameter`, `BadValue`.
        """
        if self._steering is None:
            raise UnknownParameter(f"There is no parameter {name[:100]!a}; this workflow has none.")
        return self._steering.change(current, name, value)

    def steering_model(self, values: Mapping[str, Any]) -> BaseModel | None:
        """The values as the declared model; None where nothing is steered.

        Raises `BadValue`, when the code has changed since they were recorded and takes them no more.
        """
        return None if self._steering is None else self._steering.at(values)


def workflow(
    name: str,
    *,
    input: Any = None,
    result: Any = None,
    steering: type[BaseModel] | None = None,
    on_crash: OnCrash = "restart",
) -> Callable[[Function], Workflow]:
    """Makes a workflow of an async function that takes one run.

    `input`, `result`: any type of pydantic's; None: any JSON. `steering`: a model whose every field has a type
    and a default. `on_crash`: `restart` begins the function anew (steps, answers and approvals are taken from the
    log), `fail` ends the generation.

    Raises `TypeError` at once for what could not be run.
    """

    def declare(function: Function) -> Workflow:
        return Workflow(name, function, input=input, result=result, steering=steering, on_crash=on_crash)

    return declare


def _check_function(function: Any, where: str) -> None:
    if not (inspect.isfunction(function) and inspect.iscoroutinefunction(function)):
        raise TypeError(f"{where} has to be an async function of one run, async def …(run: Run), not {function!r}")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise TypeError(f"{where} has to take one argument, the run: {error}") from error


def _fitting(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        fits = adapter.validate_python(value, strict=True)
    except ValidationError:  # a dict for a model, a string for a date: right as JSON
        fits = read(adapter, to_jsonable(value), BadResult)
    try:
        return adapter.dump_python(fits, mode="json", by_alias=True, warnings="error")
    except Exception as error:  # changed after it was made, past its checks; or the app's own code raised
        raise NotJson("it cannot be written as JSON as its type declares") from error
