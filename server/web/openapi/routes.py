"""`/openapi.json`, `/docs` and `/`: made once, when first asked for, and the same until the next version."""

import hashlib
from functools import cache

import msgspec
import trio
from quart import Blueprint, Response, request

import server
from server.config.public_url import PublicUrl
from server.web.edge.responses import bare, end_line
from server.web.openapi import rendering
from server.web.openapi.document import document

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
        page = await trio.to_thread.run_sync(rendering.docs, prefix)  # rendering would hold up every stream
        return _unless_known(page.html, "text/html; charset=utf-8", {"Content-Security-Policy": page.policy})

    @blue.get("/")
    async def root() -> Response:
        kinds = ["application/json", "text/html"]
        if request.accept_mimetypes.best_match(kinds, default=kinds[0]) == "text/html":
            page = await trio.to_thread.run_sync(rendering.root, prefix)
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
        return bare(304, {"ETag": etag, "Cache-Control": "no-cache"})
    return _respond(body, media_type, {**headers, "ETag": etag})


def _respond(body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    return Response(body, 200, headers={"Cache-Control": "no-cache", **SAFE, **headers}, content_type=media_type)
