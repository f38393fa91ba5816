"""GET of a generation's webhook: where it goes, as far as that may be shown, and what each try came to."""

from quart import Blueprint, Response

from server.errors import not_found
from server.runtime.runtime import Runtime
from server.web.snapshots import snapshot_json as views


def routes(runtime: Runtime) -> Blueprint:
    """The one address."""
    blue = Blueprint("webhook", __name__)

    @blue.get("/v1/generations/<name>/webhook")
    async def webhook(name: str) -> Response:
        await runtime.place(name)  # a webhook whose generation was refused is nobody's
        found = await runtime.webhooks.tries(name)
        if found is None:
            raise not_found("webhook of this generation")
        headers = {"Cache-Control": "private, no-cache"}
        return Response(views.encode(found), 200, headers=headers, content_type="application/json")

    return blue
