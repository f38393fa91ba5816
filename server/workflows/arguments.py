"""A function's parameters read as the arguments of a tool: their types, their JSON Schema, their defaults.

Owns what a tool's function may look like; whatever it may not is a `TypeError` where the module is imported, that
names the function, for later it would be a call that fails. Pure.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import SimpleNamespace
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from server.workflows.handle import RunHandle
from server.workflows.misfit import Misfit, adapter_of, read
from server.workflows.plain import NotJson, to_jsonable

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """The arguments of one function. `schema`: JSON Schema of an object. `runs`: the parameters given the run."""

    def __init__(self, function: Callable[..., Any], where: str) -> None:
        parameters = inspect.signature(function).parameters
        types = _types(function, parameters, where)
        self.runs = tuple(name for name in parameters if _is_run(types[name]))
        self.names = tuple(name for name in parameters if name not in self.runs)
        self.defaults = {
            name: parameters[name].default
            for name in self.names
            if parameters[name].default is not inspect.Parameter.empty
        }
        for name in self.names:
            adapter_of(types[name], f"{where}, parameter {name}")
        fields = _Fields({name: (types[name], name not in self.defaults) for name in self.names})
        self._adapter: TypeAdapter[Any] = TypeAdapter(Annotated[dict[str, Any], fields])
        self.schema = self._adapter.json_schema(schema_generator=_Untitled)
        # JSON of the defaults with which arguments are filled; and of those among them that no argument could be.
        self._filled: dict[str, Any] = {}
        self._stand_ins: dict[str, str] = {}
        for name, default in self.defaults.items():
            _tell_default(self.schema["properties"][name], default)
            self._learn(name, default, adapter_of(types[name], where))

    def _learn(self, name: str, default: Any, adapter: TypeAdapter[Any]) -> None:
        """How a default stands among the arguments: as its JSON, where that means the same."""
        try:
            written = to_jsonable(default)
        except NotJson:  # the function alone has it
            return
        try:
            same = bool(read(adapter, written, Misfit) == default)
        except Exception:  # `order: int = None`: no argument, so it can stand for the default
            self._stand_ins[name] = json.dumps(written)
            same = True
        if same:
            self._filled[name] = written

    def read(self, arguments: Mapping[str, Any], misfit: type[Misfit]) -> dict[str, Any]:
        """The Python values of those that were given. Raises `misfit`, and whatever the app's own types raise."""
        given = {name: value for name, value in arguments.items() if not self._stands_in(name, value)}
        values: dict[str, Any] = read(self._adapter, given, misfit)
        return values

    def _stands_in(self, name: str, value: Any) -> bool:
        return name in self._stand_ins and json.dumps(value) == self._stand_ins[name]

    def fill(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, with the defaults of those that did not come.

        Defaults inside of an argument are left to its type: pydantic tells a field that was given from one that
        was not. So is a default that JSON cannot say.
        """
        missing = {name: deepcopy(value) for name, value in self._filled.items() if name not in arguments}
        return {**arguments, **missing}


class _Fields:
    """For pydantic: an object with these fields and no others. `types`: each one's type, and whether it must come.

    No model class, for its own attributes (`copy`, `schema` …) would be names that no argument could have.
    """

    def __init__(self, types: Mapping[str, tuple[Any, bool]]) -> None:
        self._types = types

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {
            name: core_schema.typed_dict_field(handler.generate_schema(kind), required=required)
            for name, (kind, required) in self._types.items()
        }
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid")


class _Untitled(GenerateJsonSchema):
    """Without a title for each field, that says the name once more: a model reads, and is paid, by the word."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _types(
    function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], where: str
) -> dict[str, Any]:
    for name, parameter in parameters.items():
        if parameter.kind not in _NAMED:
            raise TypeError(f"{where}: {parameter} has no name that a caller could use; name each argument")
        if parameter.annotation is inspect.Parameter.empty:
            raise TypeError(f"{where}: the parameter {name} needs a type, for a model has to know what to send")
        if isinstance(parameter.default, FieldInfo):
            raise TypeError(
                f"{where}: give {name} its Field inside the type, and the default after it: "
                f"{name}: Annotated[…, Field(…)] = …"
            )
    # The parameters alone: what the function returns may have a type that only type checkers import.
    annotated = SimpleNamespace(__annotations__={name: one.annotation for name, one in parameters.items()})
    spelled = inspect.unwrap(function).__globals__
    try:
        return get_type_hints(annotated, globalns=spelled, include_extras=True)
    except Exception as error:  # annotations are the app's own code, which may raise anything
        raise TypeError(
            f"{where}: its parameters' types cannot be read: {error}. They have to be names of its module, "
            "imported for real and not under TYPE_CHECKING alone"
        ) from error


def _is_run(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and issubclass(plain, RunHandle)


def _tell_default(schema: dict[str, Any], default: Any) -> None:
    try:
        schema.setdefault("default", to_jsonable(default))
    except NotJson:  # a default that JSON cannot say is left for the function alone
        return
