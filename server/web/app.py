"""The web app: routes, refusals and guards put together, as one ASGI app for hypercorn."""

from quart import request, websocket
from quart_trio import QuartTrio

from server.config import Settings
from server.runtime.runtime import Runtime
from server.web import health, posts, problems, reads, sockets
from server.web.guard import Guard
from server.web.seam import Seam

BODY_SECONDS = 15


def build(runtime: Runtime, settings: Settings) -> Seam:
    """The app of one process."""
    app = QuartTrio("tokentape", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    problems.install(app, settings.max_body)
    guard = Guard(settings.bind.rpartition(":")[0], settings.allowed_hosts, settings.allowed_origins)

    @app.before_request
    async def check_request() -> None:
        if request.path.startswith("/v1/"):
            guard.check(request)

    @app.before_websocket
    async def check_websocket() -> None:
        guard.check(websocket)

    app.register_blueprint(reads.routes(runtime, settings.heartbeat))
    app.register_blueprint(posts.routes(runtime, settings.heartbeat))
    app.register_blueprint(sockets.routes(runtime))
    app.register_blueprint(health.routes(runtime))
    return Seam(app)
