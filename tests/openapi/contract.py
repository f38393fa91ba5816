"""The document as a judge: whether an answer that a server gave is one that it describes.

Stricter than clients have to be: a field that the document does not name is a fault of the document.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx2
import jsonschema_rs

from server.web.openapi import document
from server.web.openapi.operations import HEADERS

TOLD = {name.lower() for name in HEADERS} - {"vary"}
"""Headers that are part of the contract: where one is sent, the document says so."""


def operation(method: str, path: str) -> dict[str, Any] | None:
    """What the document says of a method of an address, if anything."""
    for pattern, methods in _patterns().items():
        if pattern.fullmatch(path.rstrip("/") or "/"):
            found: dict[str, Any] | None = methods.get("get" if method == "HEAD" else method.lower())
            return found
    return None


def judge(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Fails where the answer is not as described. Addresses and methods that are not described are refused."""
    told = {name.lower(): value for name, value in headers.items()}
    media = told.get("content-type", "").split(";")[0]
    described = operation(method, path)
    if described is None:
        assert method == "OPTIONS" or status in (400, 403, 404, 405, 413, 421), (method, path, status)
        if media == "application/problem+json" and body:
            validator("Problem").validate(json.loads(body))
        return
    where = f"{method} {path} {status}"
    assert str(status) in described["responses"], f"{where} is not described: {body[:500]!r}"
    response = described["responses"][str(status)]
    missing = (told.keys() & TOLD) - {name.lower() for name in response.get("headers", ())}
    assert not missing, f"{where} has headers that are not described: {missing}"
    if method == "HEAD" or not media:
        return
    assert media in response.get("content", {}), f"{where} answers {media}, which is not described"
    if media.endswith("json") and "ndjson" not in media:
        errors = [
            str(error)
            for error in _of(json.dumps(response["content"][media]["schema"])).iter_errors(json.loads(body))
        ]
        assert not errors, f"{where}: {errors}: {body[:2000]!r}"


async def judge_answer(answer: httpx2.Response) -> None:
    """The same, as a hook of an HTTP client. What streams is not waited for."""
    media = answer.headers.get("Content-Type", "").split(";")[0]
    body = b"" if media in ("text/event-stream", "application/x-ndjson") else await answer.aread()
    request = answer.request
    judge(request.method, request.url.path, answer.status_code, answer.headers, body)


@cache
def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """Of one schema by name, with no field allowed that it does not name."""
    return _of(json.dumps({"$ref": f"#/components/schemas/{name}"}))


@cache
def _of(schema: str) -> jsonschema_rs.Draft202012Validator:
    whole = {**json.loads(schema), "components": {"schemas": _closed()}}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


@cache
def _patterns() -> dict[re.Pattern[str], dict[str, Any]]:
    paths = document()["paths"]
    return {re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))): paths[path] for path in paths}


@cache
def _closed() -> dict[str, Any]:
    schemas = copy.deepcopy(document()["components"]["schemas"])
    for schema in schemas.values():
        _close(schema)
    return dict(schemas)


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for one in schema:
            _close(one)
    elif isinstance(schema, dict):
        fields = schema.get("properties")
        # An error frame has the problem's own fields beside its four.
        if isinstance(fields, dict) and fields.get("kind") != {"const": "error"}:
            schema.setdefault("additionalProperties", False)
        for one in schema.values():
            _close(one)
