"""The OpenAPI document, the page made of it, and their addresses: `/openapi.json`, `/docs` and `/`.

Owns how the document is put together of operations and schemas, how it is rendered as one page that needs no other
file and no other host, and the page of `/`. Both pages sign in where the server wants a key. All are made once,
when they are first asked for, and stay the same until the next version. Must not know any operation.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import msgspec
import trio
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from quart import Blueprint, Response, request

import server
from server.config.web_addresses import PublicUrl
from server.web.edge.http_messages import end_line
from server.web.edge.quart_adapter import empty_response
from server.web.openapi import problem_codes
from server.web.openapi.component_schemas import PREFIX, schemas
from server.web.openapi.operations import HEADERS, PARAMETERS, SECURITY_SCHEMES, paths
from server.web.openapi.webhook_schemas import WEBHOOKS

_DESCRIPTION = (
    "Every token of an answer is appended to a log before anybody sees it, and clients read the log: a "
    "client that "
    "is cut goes on exactly behind what it has, on every transport.\n\n"
    "`position` is the only cursor: the SSE `id`, the WebSocket's offset, `after`, a snapshot's `position`, its "
    "`ETag`. Every POST takes an `Idempotency-Key`. Every refusal is `application/problem+json` with a `code` for "
    "programs. Every answer carries an `X-Request-ID`: yours, if you sent one of 1 to 128 visible ASCII "
    "characters, or a new one; it is a label in the server's log, and decides nothing. Every GET answers HEAD, "
    "with the same headers; every address answers OPTIONS, and "
    "a method it does not take with 405, both with `Allow`. A slash at the end of an address does no harm. Pages "
    "of other origins may call when the server allows their origin "
    "(`TOKENTAPE_ALLOWED_ORIGINS`).\n\n"
    "From the first key on (`tokentape keys create`) every request says who makes it: by `Authorization: Bearer` "
    "with a key or a signed token, by the cookie of `POST /v1/session`, or, for one stream, by a ticket. A "
    "conversation of another tenant is as one that does not exist."
)


@cache
def document() -> dict[str, Any]:
    """The whole document; nobody may change it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tokentape",
            "version": server.__version__,
            "summary": "LLM answers as an event log, on every transport",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": said} for name, said in _TAGS.items()],
        "paths": paths(list(_TAGS)),
        "webhooks": WEBHOOKS,
        "components": {
            "schemas": schemas(),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


_TAGS = {
    "Generations": "One run of a model or a workflow: asked for, read, cancelled.",
    "Talking back": "While it runs: decide on its calls, give their results, steer it.",
    "Conversations": "Messages and generations in one order: one log, one cursor.",
    "Files": "What messages name: pictures, PDFs, texts.",
    "Signing in": "Who calls: sessions of browsers, and tickets for streams.",
    "Running it": "For who runs the server.",
}


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
def render_docs(prefix: str = "") -> Page:
    """`/docs`. Takes some hundredths of a second the first time. `prefix`: what clients put before every path."""
    whole = document()
    parameters = whole["components"]["parameters"]
    operations = [
        {
            **operation,
            "method": method,
            "path": path,
            "scopes": _scopes(operation.get("security", [])),
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
        problems=problem_codes.CODES,
    )


@cache
def render_root(prefix: str = "") -> Page:
    """`/`, for browsers: what this is, and a demo that asks this server alone."""
    return _page("root.html", "root.js", more_style="root.css", prefix=prefix, info=document()["info"])


def _page(template: str, script: str, *, more_style: str | None = None, **values: Any) -> Page:
    """A template with its script and styles inlined, and the script that signs in where a key is wanted."""
    environment = Environment(
        loader=PackageLoader("server.web.openapi"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"prose": _prose, "kind": _kind, "breakable": _breakable, "json": _json}
    style = _source(environment, "style.css") + (_source(environment, more_style) if more_style else "")
    code = _source(environment, "sign_in.js") + _source(environment, script)
    icon = "data:image/svg+xml," + quote(_ICON)
    html = environment.get_template(template).render(style=style, script=code, icon=icon, base=BASE, **values)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(code)}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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


def _scopes(security: list[dict[str, list[str]]]) -> list[str]:
    """The scopes of which one is needed, each once, in their order."""
    return list(dict.fromkeys(scope for way in security for scopes in way.values() for scope in scopes))


def _bounds(schema: dict[str, Any]) -> str:
    words = (("minimum", "≥ {}"), ("maximum", "≤ {}"), ("maxLength", "at most {} long"), ("default", "default {}"))
    told = [text.format(json.dumps(schema[name])) for name, text in words if schema.get(name) is not None]
    return "".join(f", {one}" for one in told)


SAFE = {"Referrer-Policy": "no-referrer"}


def routes(public: PublicUrl) -> Blueprint:
    """The three addresses, with links as clients of `public` have to ask for them."""
    prefix = public.prefix
    blue = Blueprint("openapi", __name__)

    @blue.get("/openapi.json")
    async def openapi() -> Response:
        return _unless_known(await trio.to_thread.run_sync(_encoded, prefix), "application/json", {})

    @blue.get("/docs")
    async def docs() -> Response:
        page = await trio.to_thread.run_sync(render_docs, prefix)  # rendering would hold up every stream
        return _unless_known(page.html, "text/html; charset=utf-8", {"Content-Security-Policy": page.policy})

    @blue.get("/")
    async def root() -> Response:
        kinds = ["application/json", "text/html"]
        if request.accept_mimetypes.best_match(kinds, default=kinds[0]) == "text/html":
            page = await trio.to_thread.run_sync(render_root, prefix)
            return _respond(
                page.html,
                "text/html; charset=utf-8",
                {"Content-Security-Policy": page.policy, "Vary": "Accept"},
            )
        return _respond(_words(prefix), "application/json", {"Vary": "Accept"})

    return blue


@cache
def _encoded(prefix: str) -> bytes:
    return end_line(msgspec.json.encode({**document(), "servers": [{"url": prefix or "/"}]}))


def _words(prefix: str) -> bytes:
    paths = {"docs": "/docs", "openapi": "/openapi.json", "health": "/healthz", "ready": "/readyz"}
    links = {name: prefix + path for name, path in paths.items()}
    return end_line(msgspec.json.encode({"name": "Tokentape", "version": server.__version__, **links}))


def _unless_known(body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if request.if_none_match.contains_weak(etag.strip('"')) or request.if_none_match.star_tag:
        return empty_response(304, {"ETag": etag, "Cache-Control": "no-cache"})
    return _respond(body, media_type, {**headers, "ETag": etag})


def _respond(body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    return Response(body, 200, headers={"Cache-Control": "no-cache", **SAFE, **headers}, content_type=media_type)
