"""Workflows: async functions of one run, with the types of their input, their result and what people steer.

Owns what `@workflow` declares, and the check of inputs, results and steered values against it. A request's values
are read strictly as JSON (`tool_arguments`). Must not know how a run goes.

Steered values are kept in the log, as JSON by name. A run may go on under newer code: names that it does not know
are ignored, and missing names have their default. Pure.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError

from server.workflows.json_values import NotJson, to_jsonable
from server.workflows.tool_arguments import TypeMismatch, adapter_of, errors_of, read


class UnknownParameter(ValueError):
    """The workflow declares no such parameter; the client is to blame. The text lists the declared ones."""


class BadValue(TypeMismatch):
    """A steered value does not fit its parameter, or the other values; the client is to blame."""


class Steering:
    """The parameters that people may change while a workflow runs, declared by a pydantic model.

    Raises `TypeError` for a model with a field that has no default or no type.
    """

    def __init__(self, model: type[BaseModel], where: str) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
            raise TypeError(f"{where}: it has to be a pydantic model with fields, not {model!r}")
        for name, field in model.model_fields.items():
            if field.is_required():
                raise TypeError(f"{where}: {name} needs a default, to begin with before anybody steers")
            if field.annotation in (Any, object):
                raise TypeError(f"{where}: {name} needs a type, with its bounds, so that a client can offer it")
        self.model = model
        self._adapter: TypeAdapter[Any] = adapter_of(model, where)
        self._initial = self._begin(where)

    def _begin(self, where: str) -> dict[str, Any]:
        try:
            initial: dict[str, Any] = to_jsonable(
                self.model().model_dump(mode="json", by_alias=False, round_trip=True)
            )
            read(self._adapter, initial, BadValue, by_name=True)
        except ValidationError as error:
            raise TypeError(f"{where}: its defaults break its own bounds: {BadValue(errors_of(error))}") from error
        except (BadValue, NotJson) as error:
            raise TypeError(f"{where}: its defaults break its own bounds: {error}") from error
        return initial

    def initial(self) -> dict[str, Any]:
        """The defaults, as JSON by name."""
        return dict(self._initial)

    def change(self, current: Mapping[str, Any], name: str, value: Any) -> Any:
        """Checks a change, and returns the value to record. Raises `UnknownParameter`, `BadValue`."""
        if name not in self.model.model_fields:
            names = ", ".join(self.model.model_fields)
            raise UnknownParameter(f"There is no parameter {name[:100]!a}; this workflow has: {names}.")
        self.at({**current, name: value})
        return value

    def at(self, values: Mapping[str, Any]) -> BaseModel:
        """The model with these values. Raises `BadValue`."""
        known = {name: value for name, value in values.items() if name in self.model.model_fields}
        model: BaseModel = read(self._adapter, known, BadValue, by_name=True)
        return model


NAME = r"[a-z][a-z0-9_.-]{0,99}"

OnCrash: TypeAlias = Literal["restart", "fail"]
Function: TypeAlias = Callable[[Any], Awaitable[Any]]


class BadInput(TypeMismatch):
    """The input does not fit the workflow; the client is to blame."""


class BadResult(TypeMismatch):
    """What the workflow returned is no JSON, or not of the declared type; the app is to blame."""


class Workflow:
    """An app's workflow, made by `@workflow`. `function` is the decorated function.

    `on_crash`: what becomes of a run whose process is lost, unless the request says otherwise.
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
        """The model that declares what people may steer; None: nothing."""
        return None if self._steering is None else self._steering.model

    def read_input(self, value: Any) -> Any:
        """The input as the function gets it; plain JSON, where no type is declared. Raises `BadInput`.

        Where the request has no input, and every field of the declared type has a default, those are the input.
        """
        if self._input is None:
            return value
        try:
            return read(self._input, value, BadInput)
        except BadInput as error:
            if value is not None:
                raise
            try:
                return read(self._input, {}, BadInput)
            except BadInput:
                raise error from None

    def make_result(self, value: Any) -> Any:
        """The JSON of what the function returned, its text repaired. Raises `BadResult`.

        An instance of the declared type is not validated again; any other value is made JSON and then validated.
        """
        try:
            return to_jsonable(value if self._result is None else _fitting(self._result, value))
        except NotJson as error:
            raise BadResult([{"field": "", "message": str(error).rstrip(".")}]) from error

    def initial_steering(self) -> dict[str, Any]:
        """The first values of the steered parameters, as JSON by name."""
        return {} if self._steering is None else self._steering.initial()

    def steer(self, current: Mapping[str, Any], name: str, value: Any) -> Any:
        """Checks a change of one parameter together with the current values of all; returns the value to record.

        Raises `UnknownParameter`, `BadValue`.
        """
        if self._steering is None:
            raise UnknownParameter(f"There is no parameter {name[:100]!a}; this workflow has none.")
        return self._steering.change(current, name, value)

    def steering_model(self, values: Mapping[str, Any]) -> BaseModel | None:
        """The values as the declared model; None where nothing is steered.

        Raises `BadValue` where the code has changed since they were recorded, and no longer accepts them.
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
    """Makes an async function of one `Run` a workflow, which clients ask for by `name`.

        class Dials(BaseModel):
            strictness: int = 5

        @workflow("grade", input=Essay, result=Grades, steering=Dials)
        async def grade(run: Run) -> Grades:
            essay: Essay = run.input
            ...

    `name`: begins with a small letter; then small letters, digits, ".", "_" or "-", at most 100 characters in all.
    `input`, `result`: any type that pydantic can read from JSON; None: any JSON.
    `steering`: a pydantic model of the parameters that people may change during a run; each field has a type and a
    default.
    `on_crash`: what happens when the process of a run is lost. "restart" (the default) calls the function again:
    steps, models' answers and approvals are then taken from the log. "fail" ends the generation.

    Raises `TypeError` when the module is imported, where the function or a type cannot be used.
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
    except ValidationError:  # a dict for a model, a string for a date: it may fit as JSON
        fits = read(adapter, to_jsonable(value), BadResult)
    try:
        return adapter.dump_python(fits, mode="json", by_alias=True, warnings="error")
    except Exception as error:  # it was changed after its validation, or the app's own code raised
        raise NotJson("it cannot be written as JSON as its type declares") from error
