"""Two different questions: is the process alive, and may work be sent to it."""

import trio
from quart import Blueprint, Response

from eventstore import StoreUnavailable
from server.errors import Problem
from server.runtime.runtime import Runtime

READY_SECONDS = 2.0


def routes(runtime: Runtime) -> Blueprint:
    """`/healthz` and `/readyz`."""
    blue = Blueprint("health", __name__)

    @blue.get("/healthz")
    async def healthz() -> Response:
        return _ok(b'{"status":"alive"}')

    @blue.get("/readyz")
    async def readyz() -> Response:
        if runtime.drain.begun:  # asked, not refused: a probe is no work that was turned away
            raise Problem(503, "draining", "The server is stopping.", retry_after=1.0)
        try:
            with trio.fail_after(READY_SECONDS):
                await runtime.store.alive()
        except (StoreUnavailable, trio.TooSlowError):
            raise Problem(503, "unavailable", "The database does not answer.", retry_after=1.0) from None
        return _ok(b'{"status":"ready"}')

    return blue


def _ok(body: bytes) -> Response:
    return Response(body, 200, headers={"Cache-Control": "no-store"}, content_type="application/json")
