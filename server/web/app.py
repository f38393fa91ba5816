"""The web app: routes, refusals and guards put together, as one ASGI app."""

from quart import request, websocket
from quart_trio import QuartTrio

from server.config import Settings
from server.config.public_url import PublicUrl
from server.runtime.runtime import Runtime
from server.web import diagnostics, health, openapi
from server.web import metrics_endpoint as metrics
from server.web.commands import post_routes as posts
from server.web.commands.post_endpoints import PostEndpoints
from server.web.direct_posts import BODY_SECONDS, DirectPosts
from server.web.direct_reads import DirectReads
from server.web.direct_sockets import DirectSockets
from server.web.edge import cors, id_converters, problems, quart_connections
from server.web.edge.host_origin_check import HostOriginCheck
from server.web.edge.request_ids import RequestIds, name_lines
from server.web.snapshots import webhook_endpoint as webhook
from server.web.transports import get_routes as reads
from server.web.transports import websocket_endpoint as sockets
from server.web.transports.read_endpoints import ReadEndpoints


def build(runtime: Runtime, settings: Settings) -> DirectReads:
    """The app of one process."""
    app = QuartTrio("tokentape", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    app.config["RESPONSE_TIMEOUT"] = None  # a slow reader is nobody's fault; one that takes nothing is cut below
    quart_connections.install(app)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # Before any route: a slash at the end of an address is no other address; and nothing is redirected.
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    id_converters.install(app)
    problems.install(app, settings.max_body, runtime.public)
    guard = host_origin_check(settings, runtime.public)

    @app.before_request
    async def check_request() -> None:
        headers = request.headers
        guard.check_request(
            request.method,
            request.path,
            headers.get("Host", ""),
            headers.get("Origin"),
            secure=request.scheme == "https",
        )
        name_lines(request.view_args)

    @app.before_websocket
    async def check_websocket() -> None:
        headers = websocket.headers
        guard.check_upgrade(headers.get("Host", ""), headers.get("Origin"), secure=websocket.scheme == "wss")
        name_lines(websocket.view_args)

    readers = cors.Cors(settings.allowed_origins)
    cors.install(app, readers)
    endpoints = ReadEndpoints(runtime, settings.heartbeat)
    app.register_blueprint(reads.routes(runtime, endpoints))
    commands = PostEndpoints(runtime, settings.heartbeat)
    app.register_blueprint(posts.routes(commands))
    upgrades = sockets.WebSocketEndpoint(runtime)
    app.register_blueprint(sockets.routes(upgrades))
    app.register_blueprint(webhook.routes(runtime))
    app.register_blueprint(diagnostics.routes(runtime.drain))
    app.register_blueprint(openapi.routes(runtime.public))
    app.register_blueprint(health.routes(runtime))
    app.register_blueprint(metrics.routes(runtime))
    metrics.count_requests(app, runtime.metrics)
    around = guard, readers, runtime.public, runtime.metrics
    framework = DirectSockets(RequestIds(app), upgrades, guard, runtime.public)
    return DirectReads(DirectPosts(framework, commands, *around, settings.max_body), endpoints, *around)


def host_origin_check(settings: Settings, public: PublicUrl) -> HostOriginCheck:
    """The check with the names and origins that are set; the public URL's are ours too."""
    return HostOriginCheck(
        settings.bind.rpartition(":")[0],
        (*settings.allowed_hosts, *([public.host] if public.host else ())),
        # The proxy in front may name us otherwise than the browser does: the page is still one of our own.
        (*settings.allowed_origins, *([public.origin] if public.origin else ())),
    )
