"""Who makes a request, and whether they may: asked by the dispatcher and by Quart before any endpoint.

`Authorization.authorize` is the one function for both. It finds the credential in the request (`Authorization`,
the session's cookie, a ticket), has it recognised, and compares the principal with the route's scope and with
whose the conversation is. A request whose credential was seen lately waits for nothing. What it finds is a
`Grant`, which says who it is and holds streams for as long as the right lasts. Must not know endpoints.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from server.auth import refusals
from server.auth.auth_store import Transport
from server.auth.authenticator import Authenticator, Presented, Reader
from server.auth.limits.rate_limiter import RateLimiter
from server.auth.principal import DEFAULT_TENANT, Principal
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.runtime.stream_drain import StreamDrain, StreamLease
from server.web.edge.client_address import ClientAddresses, Network, header_list, is_forwarded, is_local
from server.web.edge.host_origin_cors import SAFE_METHODS, is_loopback_host
from server.web.edge.http_messages import PlainRequest
from server.web.edge.ownership import Ownership
from server.web.edge.route_scopes import COMMAND_SCOPES, RouteScope
from server.web.transports.read_params import cursor_text

SECURE_COOKIE: Final = "__Host-tokentape"
"""The session's cookie over https. The prefix makes browsers refuse it from other hosts and from plain http
(https://www.rfc-editor.org/rfc/rfc6265bis#section-4.1.3.2)."""
LOOPBACK_COOKIE: Final = "tokentape"
"""The same over plain http on this machine, where browsers take no cookie of the other name."""
TICKET_PROTOCOL: Final = "tokentape.ticket."
"""A WebSocket's subprotocol that is a ticket begins so: browsers let a page set nothing else of an upgrade."""
LOCAL_OPERATOR: Final = Principal(DEFAULT_TENANT, "operator", frozenset({"admin"}), "loopback")
"""A client on the server's machine that asks for what operators ask, without a credential."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may do, for as long as its credential is good."""

    principal: Principal
    authenticator: Authenticator
    limiter: RateLimiter

    def check(self) -> None:
        """Raises `Problem` 401 once the credential has ended."""
        why = self.authenticator.why_ended(self.principal)
        if why is not None:
            raise why

    def check_command(self, verb: str) -> None:
        """As `check`, and raises `Problem` 403 for a command of a WebSocket that needs a scope it has not."""
        self.check()
        scope = COMMAND_SCOPES[verb]
        if not self.principal.may(scope):
            raise refusals.scope_required(scope)

    def count_command(self) -> None:
        """Counts a command of a WebSocket as a request. Raises `Problem` 429 `rate_limited`."""
        self.limiter.count_request(self.principal)

    def check_stream(self, drain: StreamDrain) -> None:
        """Raises `Problem` where no stream may be opened now: 503 `draining` or `overloaded`, 429
        `rate_limited`."""
        drain.refuse_stream()
        self.limiter.check_reader(self.principal)

    def enter(self, drain: StreamDrain, transport: str) -> StreamLease:
        """A lease of a stream, which ends with the credential. Raises `Problem` 429 `rate_limited`."""
        principal, hold = self.principal, self.authenticator.hold
        if not self.limiter.is_limited(principal):
            return drain.enter(transport, partial(hold, principal))
        end_reader = self.limiter.open_reader(principal)

        def hold_both(end: Callable[[], None]) -> Callable[[], None]:
            end_hold = hold(principal, end)

            def release() -> None:
                end_hold()
                end_reader()

            return release

        return drain.enter(transport, hold_both)

    def limit_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """What a caller with limits is told of them with each answer."""
        return self.limiter.headers(self.principal)

    def log_keys(self) -> Mapping[str, str]:
        """Who it is, for log lines; nothing where nobody has to sign in."""
        principal = self.principal
        if principal.credential == "none":
            return {}
        return {"tenant": principal.tenant, "subject": principal.subject, "credential": principal.credential}


class Authorization:
    """The checks of one process. `trusted_proxies`: the networks whose `X-Forwarded-For` counts."""

    def __init__(
        self,
        runtime: ConversationService,
        authenticator: Authenticator,
        limiter: RateLimiter,
        trusted_proxies: Iterable[Network] = (),
    ) -> None:
        self.limiter = limiter
        self.public = runtime.public
        self.ownership = Ownership(runtime)
        self.addresses = ClientAddresses(trusted_proxies)
        self.authenticator = authenticator

    async def authorize(self, route: RouteScope, request: PlainRequest, ids: Sequence[str]) -> None:
        """Sets the request's grant. `ids`: those in the address, in order.

        Raises `Problem` 401 where the credential is missing or not good, 403 `scope_required`, `origin_required`
        and `conversations_limited`, 404 for a conversation or generation that is unknown or somebody else's, 429
        `too_many_attempts` and `rate_limited`; and `StoreUnavailable`.
        """
        if route.need == "nothing":
            return
        principal = await self._recognise(route, request, ids)
        request.grant = Grant(principal, self.authenticator, self.limiter)
        self.limiter.count_request(principal)
        if principal.credential.startswith("ses_"):
            check_same_origin(request)
        needed = route.past_scopes if route.past_scopes and "at" in request.args else route.scopes
        if needed and not any(map(principal.may, needed)):
            raise refusals.scope_required(needed[0])
        if route.creates and principal.conversations is not None:
            raise Problem(
                403,
                "conversations_limited",
                "This credential is for certain conversations only, and starts no other ones.",
            )
        if route.owned == "conversation":
            await self.ownership.check_conversation(principal, ids[0])
        elif route.owned == "generation":
            await self.ownership.check_generation(principal, ids[0])

    async def _recognise(self, route: RouteScope, request: PlainRequest, ids: Sequence[str]) -> Principal:
        ticket = _ticket(request) if route.stream is not None else None
        presented = Presented(_bearer(request.headers.get("authorization")), _session_cookie(request), ticket)
        principal = self.authenticator.cached(presented)
        if route.need == "operator" and is_local(request.scope):
            # Open to everybody on this machine, whether a credential without the scope is known by now or not.
            return principal if principal is not None and principal.may("admin") else LOCAL_OPERATOR
        if principal is not None:
            return principal
        stream = ids[0] if ids and route.stream is not None else ""
        reader = self._reader(request, stream, route.stream or "sse")
        return await self.authenticator.authenticate(presented._replace(reader=reader))

    def _reader(self, request: PlainRequest, stream: str, transport: Transport) -> Reader:
        headers = request.headers if transport == "sse" else {}
        return Reader(
            self.addresses.address(request.scope),
            ", ".join(header_list(request.scope["headers"], b"user-agent")),
            request.headers.get("origin", ""),
            stream,
            transport,
            resumes=cursor_text(headers, request.args) is not None,
        )


def check_same_origin(request: PlainRequest) -> None:
    """For a request that a browser's cookie signs in. Raises `Problem` 403 `origin_required`.

    A browser adds the cookie whichever page makes the request: so a page of another site could act in the name of
    whoever is signed in. What changes nothing, and lets no foreign page read the answer, needs no check; an
    upgrade does, for any page may read from a WebSocket. A foreign `Origin` was refused before.
    """
    if request.method in SAFE_METHODS and request.scope["type"] != "websocket":
        return
    site = request.headers.get("sec-fetch-site")
    if site == "same-origin" or (site != "cross-site" and "origin" in request.headers):
        return
    raise Problem(
        403,
        "origin_required",
        "A request that is signed in by a cookie has to say that it comes from a page of this server, by `Origin` "
        "or by `Sec-Fetch-Site: same-origin`, as browsers do. Programs send a key in `Authorization`.",
    )


def _bearer(authorization: str | None) -> str | None:
    """The header, if it is of the scheme that is asked for: any other is that of a proxy in front."""
    if authorization is not None and authorization[:7].lower() == "bearer ":
        return authorization
    return None


def _session_cookie(request: PlainRequest) -> str | None:
    header = request.headers.get("cookie")
    if header is None or "tokentape" not in header:
        return None
    found = _parse_cookies(header)
    if (secure := found.get(SECURE_COOKIE)) is not None:
        return secure
    # Any host of the same site, and anybody on the network path, can set a cookie of a name without the prefix,
    # and so sign somebody in as somebody else. On loopback there is nobody between.
    return found.get(LOOPBACK_COOKIE) if is_plain_loopback(request) else None


def is_plain_loopback(request: PlainRequest) -> bool:
    """Whether the client called this server by a name of its own machine, and no proxy passed the request on."""
    return is_loopback_host(request.headers.get("host", "")) and not is_forwarded(request.scope)


def _parse_cookies(header: str) -> dict[str, str]:
    """The first value of each cookie (RFC 6265 section 5.4: the one of the longest path comes first).

    Around a cookie stand spaces and tabs alone. Python's `strip` would take more away, such as U+00A0, which to a
    browser is part of the name: any host of the same site could set a cookie of such a name, and it would count
    here as one with the prefix.
    """
    found: dict[str, str] = {}
    for pair in header.split(";"):
        name, equals, value = pair.strip(" \t").partition("=")
        if equals:
            found.setdefault(name, value.strip('"'))
    return found


def _ticket(request: PlainRequest) -> str | None:
    """The ticket in the address or, of a WebSocket, among its subprotocols."""
    if (ticket := request.args.get("ticket")) is not None:
        return ticket
    for protocol in request.scope.get("subprotocols", ()):
        if protocol.startswith(TICKET_PROTOCOL):
            return str(protocol).removeprefix(TICKET_PROTOCOL)
    return None
