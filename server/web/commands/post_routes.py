"""Quart's routes for every POST. They carry what the endpoints answer.

The direct way (`direct_posts.py`) answers most POSTs before they come here: all but those whose body has to be
waited for, or whose answer is a stream.
"""

from collections.abc import Awaitable, Callable
from typing import cast

from quart import Blueprint, Response, request

from server.web.commands.post_endpoints import Endpoint, PostEndpoints, PostRequest
from server.web.commands.request_body import check_media_type
from server.web.transports.get_routes import respond


def routes(endpoints: PostEndpoints) -> Blueprint:
    """The writing half of the API."""
    blue = Blueprint("posts", __name__)
    for route, endpoint in endpoints.by_route.items():
        blue.add_url_rule(route, route.replace(".", "_"), _view(endpoint), methods=["POST"])
    return blue


def _view(endpoint: Endpoint) -> Callable[..., Awaitable[Response]]:
    async def view(**ids: str) -> Response:
        asked = PostRequest.from_scope(request.scope)
        if "expect" in request.headers:
            # Its client waits to be asked for the body. What cannot be taken is refused before (RFC 9110, 10.1.1).
            check_media_type(asked.headers)
        body = cast(bytes, await request.get_data(as_text=False))
        return respond(await endpoint(asked, body, tuple(ids.values())))

    return view
