"""`/metrics` for scrapers, and the count of requests.

Open like `/healthz`: a scraper calls a server by whatever name it has for it, and there is no content to see. A
page costs no question to the database. Requests are counted by the route's template: a raw path would make a
series of each id.
"""

import re
from functools import cache

from quart import Blueprint, Response, request
from quart_trio import QuartTrio

from server.metrics import Metrics, Page, Present
from server.runtime.runtime import Runtime

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def routes(runtime: Runtime) -> Blueprint:
    """`/metrics`."""
    blue = Blueprint("metrics", __name__)

    def look() -> Present:
        return Present(
            store=runtime.store.figures(),
            runs=len(runtime.supervisor.runs),
            most_runs=runtime.most_runs,
            readers=runtime.drain.by_transport(),
            most_streams=runtime.drain.most,
            draining=runtime.drain.begun,
            refused=runtime.drain.refused,
            busy=runtime.supervisor.pace.busy,
            pause=runtime.supervisor.pace.pause,
            unknown=runtime.upstreams.unknown(),
        )

    page = Page(runtime.metrics, look)

    @blue.get("/metrics")
    async def metrics() -> Response:
        body, media_type = page.render(request.headers.get("Accept", ""))
        return Response(body, 200, headers={"Cache-Control": "no-store"}, content_type=media_type)

    return blue


@cache
def template(rule: str) -> str:
    """A route as a metric's label: without the kinds of its ids, which no dashboard has to know."""
    return re.sub("<[a-z]+:", "<", rule)


def count_requests(app: QuartTrio, metrics: Metrics) -> None:
    """Counts every answer the app gives."""

    @app.after_request
    async def count(response: Response) -> Response:
        method = request.method if request.method in METHODS else "other"
        route = "none" if request.url_rule is None else template(request.url_rule.rule)
        metrics.requests.add(method, route, str(response.status_code))
        return response
