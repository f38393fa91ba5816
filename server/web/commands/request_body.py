"""From the bytes of a request body to a checked model, the same for POST and for WebSocket commands.

Owns the parsing of JSON and what no JSON text may hold. Bad JSON is refused with 400. JSON of the wrong shape, or
with text that Postgres cannot store (U+0000, unpaired surrogates), is refused with 422, which names the field.
Must not know the fields of any command: those are in `request_models`.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from server.problem import Problem
from server.web.commands.request_models import BRANCHES

M = TypeVar("M", bound=BaseModel)

MEDIA_TYPE = "application/json"
DEEPEST = 64
"""How many levels of objects and lists a body may have."""

_UNCLEAN = re.compile("[\x00\ud800-\udfff]")


def read_body(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """A request's JSON object; an absent body is an empty object. Names of `headers` are in lower case.

    Raises `Problem` 400, 415, 422.
    """
    if not body:
        return {}
    check_media_type(headers)
    return parse(body)


def check_media_type(headers: Mapping[str, str]) -> None:
    """Raises `Problem` 415 for a body that is not JSON, or is compressed. Names of `headers` are in lower case."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(
            415, "unsupported_media_type", f"A body has to come as it is, not in the coding {coding[:100]!a}."
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPE:
        raise Problem(
            415,
            "unsupported_media_type",
            f"A body has to be application/json, not {kind[:100] or 'of no type'!a}.",
        )


def parse(text: bytes | str) -> dict[str, Any]:
    """One JSON object. Raises `Problem` 400 `invalid_json`, 422 `invalid_request` or `invalid_text`."""
    value = decode(text)
    check_clean(value)
    return value


def decode(text: bytes | str) -> dict[str, Any]:
    """One JSON object, without the check of its texts and numbers. Raises `Problem` 400, 422."""
    try:
        # RFC 8259 section 8.1: UTF-8 and nothing else; `json.loads` would guess the encoding of bytes. Surrogates
        # (CESU-8) pass here, so that `check_clean` can refuse them with a message that names them.
        decoded = text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text
        # A byte order mark may be ignored, says the same section; some clients on Windows send one.
        value = json.loads(decoded.removeprefix("\ufeff"), parse_constant=_refuse_constant, parse_int=_parse_int)
    except UnicodeDecodeError:
        raise Problem(400, "invalid_json", "The JSON is not valid UTF-8.") from None
    except ValueError as error:
        raise Problem(400, "invalid_json", f"This is not JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise Problem(422, "invalid_request", "The JSON has to be an object, {…}.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def check_clean(value: dict[str, Any]) -> None:
    """Raises `Problem` 422 for a text or number that cannot be stored, and for a value that is nested too deep."""
    todo: list[tuple[str, Any, int]] = [("", value, 1)]
    while todo:
        path, item, depth = todo.pop()
        if depth > DEEPEST:
            raise _too_deep()
        if isinstance(item, dict):
            for name, inner in item.items():
                _check_text(path, name)
                todo.append((f"{path}.{name}" if path else name, inner, depth + 1))
        elif isinstance(item, list):
            todo += ((f"{path}.{n}", inner, depth + 1) for n, inner in enumerate(item))
        elif isinstance(item, str):
            _check_text(path, item)
        elif not _can_be_stored(item):
            raise Problem(
                422, "invalid_request", f"{path}: numbers have to fit in 64 bits.", extra={"field": path}
            )


def _can_be_stored(item: object) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    return not isinstance(item, int) or -(2**63) <= item < 2**63


def _parse_int(digits: str) -> float:
    # `int` refuses thousands of digits with a message about Python's settings. Infinity is refused as too large.
    return int(digits) if len(digits) <= 20 else math.inf


def _check_text(path: str, text: str) -> None:
    found = _UNCLEAN.search(text)
    if found is not None:
        what = "U+0000" if found[0] == "\0" else f"the unpaired surrogate U+{ord(found[0]):04X}"
        field = path or "(a name)"
        raise Problem(
            422,
            "invalid_text",
            f"{field}: the text holds {what}, which cannot be stored. Leave it out.",
            extra={"field": field},
        )


def _too_deep() -> Problem:
    return Problem(
        422, "invalid_request", f"The JSON is nested deeper than {DEEPEST} levels.", extra={"limit": DEEPEST}
    )


def check(model: type[M], value: dict[str, Any]) -> M:
    """The value as `model`. Raises `Problem` 422 `invalid_request`, which names each field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = [
            {"field": _field_name(one["loc"]), "message": one["msg"].removeprefix("Value error, ")}
            for one in error.errors(include_url=False, include_input=False)
        ]
        detail = "; ".join(f"{one['field'] or 'body'}: {one['message']}" for one in errors[:5])
        raise Problem(422, "invalid_request", detail + ".", extra={"errors": errors[:20]}) from None


def _field_name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part not in BRANCHES)
