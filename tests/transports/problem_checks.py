"""Checks that an error response is a problem document (RFC 9457) as the API contract demands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def check_problem(status: int, headers: Mapping[str, str], body: bytes, *codes: str) -> dict[str, Any]:
    """Checks an error response: status, content type, fields, and one of these codes if any are given. Returns
    its fields.
    """
    types = {name.lower(): value for name, value in headers.items()}
    assert types.get("content-type") == "application/problem+json", (types, body[:500])
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status
    for field in ("type", "title", "detail", "code"):
        assert isinstance(problem[field], str), field
        assert problem[field], field
    assert not codes or problem["code"] in codes
    return problem
