"""Values from outside held against declared types; a misfit names each field that is wrong.

Everything comes as JSON (a request, a model's call), so pydantic judges it as JSON, and strictly: a date may come
as its string, for JSON has no other form of it, but "3" is no integer and 1 is no truth. What people saw and
decided on must be what the function gets, and a model that errs is told so rather than guessed at. An app that
wants it loose says how in its type: `Annotated[int, BeforeValidator(int)]`. Pure.
"""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

MOST_TOLD = 20
"""Fields named in `errors`, at most; the text names the first five."""


class Misfit(ValueError):
    """A value does not fit its declared type. `errors`: `{"field", "message"}` each, `field` with dots.

    `field` is empty where the value as a whole is wrong.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        told = (f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in errors[:5])
        super().__init__("; ".join(told) + ".")
        self.errors = errors[:MOST_TOLD]


def read(adapter: TypeAdapter[Any], value: Any, misfit: type[Misfit], *, by_name: bool = False) -> Any:
    """The Python value that a JSON value means. `by_name`: fields go by their names, not by their aliases.

    Raises `misfit`.
    """
    try:
        text = json.dumps(value)
        return adapter.validate_json(text, strict=True, by_alias=not by_name, by_name=by_name)
    except ValidationError as error:
        raise misfit(errors_of(error)) from None
    except RecursionError:
        raise misfit([{"field": "", "message": "it is nested too deep"}]) from None
    except ValueError:  # thousands of digits, which Python writes out for nobody
        raise misfit([{"field": "", "message": "it cannot be written as JSON"}]) from None


def errors_of(error: ValidationError) -> list[dict[str, str]]:
    """What pydantic found, in the words clients are told."""
    return [
        {
            "field": ".".join(str(part) for part in one["loc"]),
            "message": one["msg"].removeprefix("Value error, ").rstrip("."),
        }
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def adapter_of(kind: Any, where: str) -> TypeAdapter[Any]:
    """The adapter of a declared type. Raises `TypeError` naming where it stands: the app is to blame."""
    if isinstance(kind, TypeAdapter):
        return kind
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.json_schema()
    except (PydanticUserError, NameError, TypeError) as error:
        said = str(error).partition("\n")[0]  # what follows is advice on pydantic's insides
        raise TypeError(f"{where}: {kind!r} is no type that JSON can be read as: {said}") from error
    return adapter
