"""What probes and scrapers ask: `/healthz`, `/readyz` and `/metrics`; and the count of requests.

Liveness and readiness are two questions: is the process alive, and may work be sent to it. All three addresses are
open to any `Host`: a probe or scraper calls a server by whatever name it has for it, and the responses hold
nothing of any user. `/metrics` asks the database nothing. Requests are counted by their route's rule: counted by
their path, each id would make a time series of its own.
"""

import re
from functools import cache

import trio
from quart import Blueprint, Response, request
from quart_trio import QuartTrio

from eventstore import StoreUnavailable
from server.observability import Gauges, Metrics, MetricsPage
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.web.edge.plain_http import JSON

READY_SECONDS = 2.0
"""How long `/readyz` waits for the database."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that are counted by name: a client may invent others, and each would make a time series."""


def routes(runtime: ConversationService) -> Blueprint:
    """The three addresses."""
    blueprint = Blueprint("health_metrics", __name__)

    @blueprint.get("/healthz")
    async def healthz() -> Response:
        return _uncached(b'{"status":"alive"}', JSON)

    @blueprint.get("/readyz")
    async def readyz() -> Response:
        if runtime.drain.begun:  # not `refuse_if_begun`: a probe does not count as refused work
            raise Problem(503, "draining", "The server is stopping.", retry_after=1.0)
        try:
            with trio.fail_after(READY_SECONDS):
                await runtime.store.alive()
        except (StoreUnavailable, trio.TooSlowError):
            raise Problem(503, "unavailable", "The database does not answer.", retry_after=1.0) from None
        return _uncached(b'{"status":"ready"}', JSON)

    def gauges() -> Gauges:
        return Gauges(
            store=runtime.store.stats(),
            runs=len(runtime.supervisor.runs),
            most_runs=runtime.max_runs,
            readers=runtime.drain.by_transport(),
            most_streams=runtime.drain.most,
            draining=runtime.drain.begun,
            refused=runtime.drain.refused,
            busy=runtime.batching.load,
            pause=runtime.batching.pause,
            unknown=runtime.providers.unknown(),
        )

    page = MetricsPage(runtime.metrics, gauges)

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        return _uncached(*page.render(request.headers.get("Accept", "")))

    return blueprint


def _uncached(body: bytes, media_type: str) -> Response:
    return Response(body, 200, headers={"Cache-Control": "no-store"}, content_type=media_type)


@cache
def route_label(rule: str) -> str:
    """A route's rule as a label of metrics: `<gen:name>` becomes `<name>`."""
    return re.sub("<[a-z]+:", "<", rule)


def count_requests(app: QuartTrio, metrics: Metrics) -> None:
    """Makes Quart count every response it gives. The dispatcher counts its own."""

    @app.after_request
    async def count(response: Response) -> Response:
        method = request.method if request.method in METHODS else "other"
        route = "none" if request.url_rule is None else route_label(request.url_rule.rule)
        metrics.requests.add(method, route, str(response.status_code))
        return response
