"""The web app of one process: the dispatcher, and behind it Quart with its routes, error handlers and checks."""

from quart import request, websocket
from quart_trio import QuartTrio

from server.config import Settings
from server.config.web_addresses import PublicUrl
from server.runtime.conversation_service import ConversationService
from server.web import diagnostics_stream, health_metrics_endpoints, openapi
from server.web.commands.command_endpoints import PostEndpoints
from server.web.commands.request_body import check_media_type
from server.web.dispatcher import BODY_SECONDS, Dispatcher
from server.web.edge import cors, problem_json, quart_adapter
from server.web.edge.host_origin_check import HostOriginCheck
from server.web.edge.quart_adapter import route_endpoints
from server.web.edge.request_ids import RequestIds, bind_route_ids
from server.web.snapshots.snapshot_endpoint import webhook_endpoints
from server.web.transports import websocket_endpoint
from server.web.transports.read_endpoints import ReadEndpoints


def build(runtime: ConversationService, settings: Settings) -> Dispatcher:
    """The app, as an ASGI application."""
    check = host_origin_check(settings, runtime.public)
    allowed = cors.Cors(settings.allowed_origins)
    reads = ReadEndpoints(runtime, settings.heartbeat)
    posts = PostEndpoints(runtime, settings.heartbeat)
    sockets = websocket_endpoint.WebSocketEndpoint(runtime)

    app = _quart(settings, runtime.public, check)
    cors.install(app, allowed)
    conversations = {"/v1/conversations": reads.conversation_list}
    app.register_blueprint(route_endpoints("reads", "GET", {**reads.by_route, **conversations}))
    app.register_blueprint(route_endpoints("posts", "POST", posts.by_route, check_media_type))
    app.register_blueprint(route_endpoints("webhook", "GET", webhook_endpoints(runtime)))
    app.register_blueprint(websocket_endpoint.routes(sockets))
    app.register_blueprint(diagnostics_stream.routes(runtime.drain))
    app.register_blueprint(openapi.routes(runtime.public))
    app.register_blueprint(health_metrics_endpoints.routes(runtime))
    health_metrics_endpoints.count_requests(app, runtime.metrics)
    return Dispatcher(
        RequestIds(app),
        reads,
        posts,
        sockets,
        check=check,
        cors=allowed,
        public=runtime.public,
        metrics=runtime.metrics,
        max_body=settings.max_body,
    )


def _quart(settings: Settings, public: PublicUrl, check: HostOriginCheck) -> QuartTrio:
    """Quart without any route: how it runs requests, answers errors, and checks callers."""
    app = QuartTrio("tokentape", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    app.config["RESPONSE_TIMEOUT"] = None  # a reader may be slow; the connection closes one that takes nothing
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # `cors` answers OPTIONS
    # Set before the first route: a slash at the end of an address is ignored, and nothing is redirected.
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    quart_adapter.install_connections(app)
    quart_adapter.install_id_converters(app)
    problem_json.install(app, settings.max_body, public)

    @app.before_request
    async def check_request() -> None:
        headers = request.headers
        check.check_request(
            request.method,
            request.path,
            headers.get("Host", ""),
            headers.get("Origin"),
            secure=request.scheme == "https",
        )
        bind_route_ids(request.view_args)

    @app.before_websocket
    async def check_websocket() -> None:
        headers = websocket.headers
        check.check_upgrade(headers.get("Host", ""), headers.get("Origin"), secure=websocket.scheme == "wss")
        bind_route_ids(websocket.view_args)

    return app


def host_origin_check(settings: Settings, public: PublicUrl) -> HostOriginCheck:
    """The check for the host names and origins in the settings, and for those of the public URL."""
    return HostOriginCheck(
        settings.bind.rpartition(":")[0],
        (*settings.allowed_hosts, *([public.host] if public.host else ())),
        # A proxy in front may send another Host than the browser: the public origin is still one of our own.
        (*settings.allowed_origins, *([public.origin] if public.origin else ())),
    )
