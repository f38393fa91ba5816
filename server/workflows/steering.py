"""The parameters of a workflow that people change while it runs: their names, bounds and first values.

Owns what a steering model may look like, and the check of one change. The values themselves are JSON, kept by
name in the log, where a run that goes on under newer code finds those of the older: names it does not know are
left out, names that are missing have their default. Pure.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError

from server.workflows.misfit import Misfit, adapter_of, errors_of, read
from server.workflows.plain import NotJson, to_jsonable


class UnknownParameter(ValueError):
    """The workflow declares no such parameter; the client is to blame. The text lists those it does."""


class BadValue(Misfit):
    """The value does not fit the parameter, or the others; the client is to blame. The text names the bound."""


class Steering:
    """What a steering model declares. Raises `TypeError` for a model that cannot be one."""

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
        """The JSON of the defaults, by name."""
        return dict(self._initial)

    def change(self, current: Mapping[str, Any], name: str, value: Any) -> Any:
        """The JSON value to record: the very one that came. Raises `UnknownParameter`, `BadValue`."""
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
