"""compose.yaml as Compose reads it: anchors merged, variables put in. Nothing here knows what it ought to say."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.harness.servers import ROOT

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class Unset(Exception):
    """A variable without a default is not set: Compose refuses to start."""


def read(variables: Mapping[str, str]) -> dict[str, Any]:
    """The whole file. Raises `Unset` with the variable's name."""

    def put_in(found: "re.Match[str]") -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise Unset(name)
        return rest or ""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(put_in, value)
        if isinstance(value, list):
            return [walk(one) for one in value]
        if isinstance(value, dict):
            return {key: walk(one) for key, one in value.items()}
        return value

    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    whole: dict[str, Any] = walk(yaml.safe_load(text))
    return whole
