"""The web app of one process: the dispatcher, and behind it Quart with its routes, error handlers and checks."""

import ipaddress

from quart import Response, request, websocket
from quart.typing import ResponseTypes as AnyResponse
from quart_trio import QuartTrio

from eventstore import StoreUnavailable
from server.auth.authenticator import Authenticator
from server.auth.limits.rate_limiter import RateLimiter
from server.config import Settings
from server.config.web_addresses import PublicUrl
from server.observability import logs
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.web import openapi, operator_endpoints, session_endpoints
from server.web.commands.command_endpoints import PostEndpoints
from server.web.commands.request_models import check_media_type
from server.web.dispatcher import BODY_SECONDS, Dispatcher
from server.web.edge import problem_json, quart_adapter
from server.web.edge.authorization import Authorization
from server.web.edge.host_origin_cors import Cors, HostOriginCheck, install_cors
from server.web.edge.http_messages import PlainRequest, RequestIds, bind_route_ids
from server.web.edge.quart_adapter import plain_request, quart_response, route_endpoints
from server.web.edge.route_scopes import route_scope
from server.web.file_endpoints import FILE_RULE, UPLOAD_RULE, FileEndpoints
from server.web.session_endpoints import SessionEndpoints
from server.web.ticket_endpoints import ticket_endpoints
from server.web.transports import websocket_endpoint
from server.web.transports.read_endpoints import ReadEndpoints, refuse_event_source
from server.web.webhook_endpoints import webhook_endpoints


def build(
    runtime: ConversationService, settings: Settings, authenticator: Authenticator, limiter: RateLimiter
) -> Dispatcher:
    """The app, as an ASGI application. Raises `NoRouteScope` where a route states no scope."""
    check = host_origin_check(settings, runtime.public)
    networks = [ipaddress.ip_network(network) for network in settings.trusted_proxies]
    authorization = Authorization(runtime, authenticator, limiter, networks)
    allowed = Cors(settings.allowed_origins)
    reads = ReadEndpoints(runtime, settings.heartbeat)
    posts = PostEndpoints(runtime, settings.heartbeat)
    sockets = websocket_endpoint.WebSocketEndpoint(runtime, authorization)

    app = _quart(settings, runtime.public, check)
    install_cors(app, allowed)
    install_authorization(app, authorization, sockets, runtime.public)
    conversations = {"/v1/conversations": reads.conversation_list}
    app.register_blueprint(route_endpoints("reads", "GET", {**reads.by_route, **conversations}))
    app.register_blueprint(route_endpoints("posts", "POST", posts.by_route, check_media_type))
    app.register_blueprint(route_endpoints("webhook", "GET", webhook_endpoints(runtime)))
    tickets = ticket_endpoints(authenticator, runtime.public)
    app.register_blueprint(route_endpoints("tickets", "POST", tickets, check_media_type))
    files = FileEndpoints(runtime, limiter, settings.max_file, settings.file_unused_seconds)
    app.register_blueprint(route_endpoints("uploads", "POST", {UPLOAD_RULE: files.upload}))
    app.register_blueprint(route_endpoints("files", "GET", {FILE_RULE: files.read}))
    session = SessionEndpoints(authenticator, authorization.addresses, runtime.public)
    for method, endpoint in session.by_method.items():
        app.register_blueprint(route_endpoints(f"session_{method}", method, {session_endpoints.RULE: endpoint}))
    app.register_blueprint(websocket_endpoint.routes(sockets))
    app.register_blueprint(openapi.routes(runtime.public))
    app.register_blueprint(operator_endpoints.routes(runtime))
    operator_endpoints.count_requests(app, runtime.metrics)
    for rule in app.url_map.iter_rules():
        for method in ("WEBSOCKET",) if rule.websocket else rule.methods or ():
            route_scope(method, rule.rule)
    return Dispatcher(
        RequestIds(app),
        reads,
        posts,
        files.upload,
        sockets,
        check=check,
        authorization=authorization,
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
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # `install_cors` answers OPTIONS
    # Set before the first route: a slash at the end of an address is ignored, and nothing is redirected.
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    quart_adapter.install_connections(app)
    quart_adapter.install_routing(app)
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


def install_authorization(
    app: QuartTrio,
    authorization: Authorization,
    sockets: websocket_endpoint.WebSocketEndpoint,
    public: PublicUrl,
) -> None:
    """Has every request and upgrade that Quart serves authorized, once its address is known to be one."""

    @app.before_request
    async def authorize() -> Response | None:
        rule = request.url_rule
        if rule is None:
            return None
        plain = plain_request()
        scope = route_scope(request.method, rule.rule)
        try:
            ids = [str(value) for value in (request.view_args or {}).values()]
            await authorization.authorize(scope, plain, ids)
        except (Problem, StoreUnavailable) as error:
            refusal = None
            if scope.stream == "sse":
                refusal = refuse_event_source(plain, problem_json.as_problem(error, public))
            if refusal is None:
                raise
            return quart_response(refusal)
        finally:
            logs.bind(**plain.log_keys())
        return None

    @app.after_request
    async def tell_limits(response: AnyResponse) -> AnyResponse:
        plain: PlainRequest | None = getattr(request, "plain", None)
        for name, value in plain.limit_headers() if plain is not None else ():
            response.headers[name.decode()] = value.decode()
        return response

    @app.before_websocket
    async def authorize_websocket() -> Response | None:
        rule = websocket.url_rule
        if rule is None:
            return None
        plain = plain_request()
        socket = websocket._get_current_object()  # type: ignore[attr-defined]  # websocket is a werkzeug proxy
        (name,) = (websocket.view_args or {}).values()
        scope = route_scope("WEBSOCKET", rule.rule)
        granted = await sockets.authorize(scope, socket, plain, str(name))
        logs.bind(**plain.log_keys())
        return None if granted else Response(b"")  # not sent: the upgrade was answered


def host_origin_check(settings: Settings, public: PublicUrl) -> HostOriginCheck:
    """The check for the host names and origins in the settings, and for those of the public URL."""
    return HostOriginCheck(
        settings.bind.rpartition(":")[0],
        (*settings.allowed_hosts, *([public.host] if public.host else ())),
        # A proxy in front may send another Host than the browser: the public origin is still one of our own.
        (*settings.allowed_origins, *([public.origin] if public.origin else ())),
    )
