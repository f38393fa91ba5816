"""Which scope each route needs, and each command of a WebSocket: one table, asked before any endpoint.

A route that is not in the table fails the start of the server: what may be called without a credential is written
down here too. Pure: it must not know who calls, nor what an endpoint does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from server.auth.auth_store import Transport

Need = Literal["nothing", "operator", "credential", "scope"]
"""`nothing`: open to everybody. `operator`: the scope, or a client on this machine. `credential`: any good one."""
Owned = Literal["conversation", "generation"]


@dataclass(frozen=True, slots=True)
class RouteScope:
    """What a route needs of its caller.

    `scopes`: any one of them is enough; `past_scopes` is the same for a past state (`?at=`). `creates`: it starts
    a conversation, so it is not for a caller who may only touch certain ones. `stream`: a ticket opens it.
    `owned`: what the first id in its address names, which has to be the caller's.
    """

    need: Need
    scopes: tuple[str, ...] = ()
    past_scopes: tuple[str, ...] = ()
    creates: bool = False
    stream: Transport | None = None
    owned: Owned | None = None


class NoRouteScope(RuntimeError):
    """A route has no line in the table of this module; whoever added the route is to blame."""


_OPEN = RouteScope("nothing")
_OPERATOR = RouteScope("operator", ("admin",))
_ANY = RouteScope("credential")
_READ = RouteScope("scope", ("read",))
_SNAPSHOT = RouteScope("scope", ("read",), past_scopes=("read", "audit"))
_LOG = RouteScope("scope", ("read", "audit"), stream="sse")
_WRITE = RouteScope("scope", ("write",))
_CREATE = RouteScope("scope", ("write",), creates=True)
_DECIDE = RouteScope("scope", ("decide",))

_TABLE: Final[Mapping[str, RouteScope]] = {
    "GET /": _OPEN,
    "GET /docs": _OPEN,
    "GET /openapi.json": _OPEN,
    "GET /healthz": _OPEN,
    "GET /readyz": _OPEN,
    "GET /metrics": _OPERATOR,
    "GET /v1/diagnostics/stream": _OPERATOR,
    "POST /v1/session": _ANY,
    "GET /v1/session": _ANY,
    "DELETE /v1/session": _ANY,
    "GET /v1/conversations": _READ,
    "POST /v1/conversations": _CREATE,
    "GET /v1/conversations/<name>": _SNAPSHOT,
    "GET /v1/conversations/<name>/events": _LOG,
    "WEBSOCKET /v1/conversations/<name>/ws": replace(_READ, stream="websocket"),
    "POST /v1/conversations/<name>/messages": _WRITE,
    "POST /v1/conversations/<name>/generations": _WRITE,
    "POST /v1/conversations/<name>/tickets": _READ,
    "POST /v1/generations": _CREATE,
    "POST /v1/files": _WRITE,
    "GET /v1/files/<digest>": _READ,
    "GET /v1/generations/<name>": _SNAPSHOT,
    "GET /v1/generations/<name>/events": _LOG,
    "GET /v1/generations/<name>/webhook": _READ,
    "GET /v1/webhooks/public-key": _READ,
    "POST /v1/generations/<name>/tickets": _READ,
    "POST /v1/generations/<name>/cancel": _WRITE,
    "POST /v1/generations/<name>/steer": _WRITE,
    "POST /v1/generations/<name>/budget": _DECIDE,
    "POST /v1/generations/<name>/decisions": _DECIDE,
    "POST /v1/generations/<name>/tools/<call>/result": _WRITE,
}

COMMAND_SCOPES: Final[Mapping[str, str]] = {
    "post": "write",
    "generate": "write",
    "cancel": "write",
    "steer": "write",
    "budget": "decide",
    "decide": "decide",
    "tool_result": "write",
    "resync": "read",
}
"""The scope of each command of a WebSocket, by its `do`."""

_CONVERTER = re.compile(r"<\w+:")


def route_scope(method: str, rule: str) -> RouteScope:
    """What the route of this method (`WEBSOCKET` for an upgrade) and rule needs. Raises `NoRouteScope`.

    A HEAD needs what its GET needs.
    """
    address = _CONVERTER.sub("<", rule)
    found = _TABLE.get(f"{'GET' if method == 'HEAD' else method} {address}")
    if found is None:
        raise NoRouteScope(f"{method} {address} states no scope: add it to the table in {__name__}")
    for owned in ("conversation", "generation"):
        if address.startswith(f"/v1/{owned}s/<"):
            return replace(found, owned=owned)
    return found
