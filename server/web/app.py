"""The web app: routes, refusals and guards put together, as one ASGI app for hypercorn."""

from quart import request, websocket
from quart_trio import QuartTrio

from server.config import Settings
from server.runtime.runtime import Runtime
from server.web import diagnostics, health, openapi
from server.web import metrics_endpoint as metrics
from server.web.commands import post_routes as posts
from server.web.edge import cors, problems
from server.web.edge.asgi_disconnect import Seam
from server.web.edge.host_origin_check import Guard
from server.web.edge.request_ids import RequestIds, name_lines
from server.web.snapshots import webhook_endpoint as webhook
from server.web.transports import get_routes as reads
from server.web.transports import websocket_endpoint as sockets

BODY_SECONDS = 15


def build(runtime: Runtime, settings: Settings) -> RequestIds:
    """The app of one process."""
    app = QuartTrio("tokentape", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # Before any route: a slash at the end of an address is no other address; and nothing is redirected.
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    problems.install(app, settings.max_body)
    guard = Guard(settings.bind.rpartition(":")[0], settings.allowed_hosts, settings.allowed_origins)

    @app.before_request
    async def check_request() -> None:
        if f"/{request.path.lstrip('/')}".startswith("/v1/"):  # the router overlooks doubled slashes in front too
            guard.check(request)
            name_lines(request.view_args)

    @app.before_websocket
    async def check_websocket() -> None:
        guard.check(websocket)
        name_lines(websocket.view_args)

    cors.install(app, settings.allowed_origins)
    app.register_blueprint(reads.routes(runtime, settings.heartbeat))
    app.register_blueprint(posts.routes(runtime, settings.heartbeat))
    app.register_blueprint(sockets.routes(runtime))
    app.register_blueprint(webhook.routes(runtime))
    app.register_blueprint(diagnostics.routes(runtime.drain))
    app.register_blueprint(openapi.routes())
    app.register_blueprint(health.routes(runtime))
    app.register_blueprint(metrics.routes(runtime))
    metrics.count_requests(app, runtime.metrics)
    return RequestIds(Seam(app))
