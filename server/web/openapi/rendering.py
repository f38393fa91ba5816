"""The document as a page: `/docs`, whole in one response, so that it needs no other file and no other host."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from server.web.openapi import problems
from server.web.openapi.asked import PREFIX
from server.web.openapi.document import document

BASE = "http://127.0.0.1:8000"
"""The address in the examples where no script runs; the page puts its own in its place."""
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" fill="#fff">'
    '<rect width="16" height="16" rx="3" fill="#8a4b08"/><circle cx="8" cy="8" r="4"/>'
    "</svg>"
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page and the policy that lets exactly its own style and script run."""

    html: bytes
    policy: str


@cache
def docs(prefix: str = "") -> Page:
    """`/docs`. Takes some hundredths of a second the first time. `prefix`: what clients put before every path."""
    whole = document()
    parameters = whole["components"]["parameters"]
    operations = [
        {
            **operation,
            "method": method,
            "path": path,
            "parameters": [parameters[one["$ref"].rpartition("/")[2]] for one in operation.get("parameters", ())],
        }
        for path, methods in whole["paths"].items()
        for method, operation in methods.items()
    ]
    tags = [
        {**tag, "operations": [one for one in operations if tag["name"] in one["tags"]]} for tag in whole["tags"]
    ]
    return _page(
        "docs.html",
        "docs.js",
        prefix=prefix,
        info=whole["info"],
        tags=tags,
        schemas=whole["components"]["schemas"],
        problems=problems.CODES,
    )


@cache
def root(prefix: str = "") -> Page:
    """`/`, for browsers."""
    return _page("root.html", None, prefix=prefix, info=document()["info"])


def _page(template: str, script: str | None, **values: Any) -> Page:
    environment = Environment(
        loader=PackageLoader("server.web.openapi"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"prose": _prose, "kind": _kind, "breakable": _breakable, "json": _json}
    style = _source(environment, "style.css")
    code = _source(environment, script) if script else ""
    icon = "data:image/svg+xml," + quote(_ICON)
    html = environment.get_template(template).render(style=style, script=code, icon=icon, base=BASE, **values)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(code)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html.encode(), policy)


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, name)
    return source


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _prose(text: str) -> Markup:
    """Paragraphs, with what stands in backticks as code."""
    paragraphs = (re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(one))) for one in text.split("\n\n"))
    return Markup("".join(f"<p>{one}</p>" for one in paragraphs))  # escaped above


def _breakable(path: str) -> Markup:
    return Markup(str(escape(path)).replace("/", "/<wbr>"))  # escaped


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _kind(schema: dict[str, Any]) -> Markup:
    """A schema's type in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(PREFIX)
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return Markup(" or ").join(_kind(one) for one in schema[choice])
    if "const" in schema:
        return Markup("<code>{}</code>").format(json.dumps(schema["const"]))
    if "enum" in schema:
        return Markup(", ").join(Markup("<code>{}</code>").format(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return Markup("list of ") + (_kind(schema["items"]) if "items" in schema else Markup("anything"))
    kinds = schema.get("type", "anything")
    told = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    return escape(told + _bounds(schema))


def _bounds(schema: dict[str, Any]) -> str:
    words = (("minimum", "≥ {}"), ("maximum", "≤ {}"), ("maxLength", "at most {} long"), ("default", "default {}"))
    told = [text.format(json.dumps(schema[name])) for name, text in words if schema.get(name) is not None]
    return "".join(f", {one}" for one in told)
