"""Strict validation of JSON against declared types, and a function's parameters as the arguments of a tool.

Values come as JSON, from requests and from models, and pydantic validates them strictly as JSON: a date may come
as a string, for JSON has no other form of it, but "3" is no integer and 1 is no boolean. What people saw and
decided on must be what the function gets; a model that errs is told so. An app that wants a looser rule writes it
into the type: `Annotated[int, BeforeValidator(int)]`.

`Arguments` reads a function's signature. A function that cannot be a tool is a `TypeError` when its module is
imported, rather than a call that fails later. Pure.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import SimpleNamespace
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from server.workflows.json_values import NotJson, to_jsonable

MAX_TOLD = 20
"""The most fields named in `TypeMismatch.errors`; its text names the first five."""


class TypeMismatch(ValueError):
    """A value does not fit its declared type. `errors` has a `{"field", "message"}` for each wrong field.

    `field` is a path with dots, and empty where the value as a whole is wrong.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        told = (f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in errors[:5])
        super().__init__("; ".join(told) + ".")
        self.errors = errors[:MAX_TOLD]


def read(adapter: TypeAdapter[Any], value: Any, error_type: type[TypeMismatch], *, by_name: bool = False) -> Any:
    """The Python value of a JSON value, by the adapter's type. `by_name`: fields have their names, not aliases.

    Raises `error_type`.
    """
    try:
        text = json.dumps(value)
        return adapter.validate_json(text, strict=True, by_alias=not by_name, by_name=by_name)
    except ValidationError as error:
        raise error_type(errors_of(error)) from None
    except RecursionError:
        raise error_type([{"field": "", "message": "it is nested too deep"}]) from None
    except ValueError:  # an integer of thousands of digits, which Python refuses to write out
        raise error_type([{"field": "", "message": "it cannot be written as JSON"}]) from None


def errors_of(error: ValidationError) -> list[dict[str, str]]:
    """Pydantic's errors in the form that clients get."""
    return [
        {
            "field": ".".join(str(part) for part in one["loc"]),
            "message": one["msg"].removeprefix("Value error, ").rstrip("."),
        }
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def adapter_of(kind: Any, where: str) -> TypeAdapter[Any]:
    """The adapter of a declared type. Raises `TypeError` with `where` in its text: the app is to blame."""
    if isinstance(kind, TypeAdapter):
        return kind
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.json_schema()
    except (PydanticUserError, NameError, TypeError) as error:
        said = str(error).partition("\n")[0]  # what follows is advice on pydantic's insides
        raise TypeError(f"{where}: {kind!r} is no type that JSON can be read as: {said}") from error
    return adapter


class InjectedRun:
    """The base of `Run`. A tool's parameter of this type, or of a subclass, is given the run and is no argument.

    `Run` itself belongs to a higher package, which this one may not import.
    """


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """The arguments of one function. `schema`: JSON Schema of an object. `runs`: the parameters that get the run.

    Raises `TypeError` for a function that cannot be a tool; `where` names it in the text.
    """

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
        # The JSON of defaults, added to arguments that do not come; and of those that no valid argument could be.
        self._filled: dict[str, Any] = {}
        self._stand_ins: dict[str, str] = {}
        for name, default in self.defaults.items():
            _add_default(self.schema["properties"][name], default)
            self._note_default(name, default, adapter_of(types[name], where))

    def _note_default(self, name: str, default: Any, adapter: TypeAdapter[Any]) -> None:
        """Notes the JSON of a default, if the function gets the same value from that JSON."""
        try:
            written = to_jsonable(default)
        except NotJson:  # JSON cannot say it: only the function knows this default
            return
        try:
            same = bool(read(adapter, written, TypeMismatch) == default)
        except Exception:  # `order: int = None`: null is no valid argument, so it can mean the default
            self._stand_ins[name] = json.dumps(written)
            same = True
        if same:
            self._filled[name] = written

    def read(self, arguments: Mapping[str, Any], error_type: type[TypeMismatch]) -> dict[str, Any]:
        """The Python values of the given arguments. Raises `error_type`, and what the app's own types raise."""
        given = {name: value for name, value in arguments.items() if not self._stands_in(name, value)}
        values: dict[str, Any] = read(self._adapter, given, error_type)
        return values

    def _stands_in(self, name: str, value: Any) -> bool:
        return name in self._stand_ins and json.dumps(value) == self._stand_ins[name]

    def fill(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, and the defaults of those that are missing.

        Defaults inside an argument stay with its type: pydantic tells a field that was given from one that was
        not. A default that JSON cannot express stays with the function.
        """
        missing = {name: deepcopy(value) for name, value in self._filled.items() if name not in arguments}
        return {**arguments, **missing}


class _Fields:
    """For pydantic: an object with these fields and no others. `types`: a field's type, and whether it must come.

    Not a model class: no argument could have the name of one of its attributes (`copy`, `schema` …).
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
    """JSON Schema without titles, which repeat each field's name: models are paid by the token."""

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
    # Only the parameters' types: the return type may be one that only type checkers import.
    annotated = SimpleNamespace(__annotations__={name: one.annotation for name, one in parameters.items()})
    module_names = inspect.unwrap(function).__globals__
    try:
        return get_type_hints(annotated, globalns=module_names, include_extras=True)
    except Exception as error:  # annotations are code of the app, and may raise anything
        raise TypeError(
            f"{where}: its parameters' types cannot be read: {error}. They have to be names of its module, "
            "imported for real and not under TYPE_CHECKING alone"
        ) from error


def _is_run(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and issubclass(plain, InjectedRun)


def _add_default(schema: dict[str, Any], default: Any) -> None:
    try:
        schema.setdefault("default", to_jsonable(default))
    except NotJson:  # JSON cannot express this default
        return
