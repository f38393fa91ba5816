"""Sessions of browsers: `/v1/session` turns a key or a token into a cookie, says who is signed in, and signs out.

Owns the session's cookie. Its attributes keep it from scripts, from other sites' requests and, over https, from
other hosts and from plain http. Which requests the cookie signs in is decided in `edge/authorization`. Must not
know how a session is stored.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from server.auth.authenticator import Authenticator
from server.auth.principal import NO_CREDENTIAL, in_order
from server.config.web_addresses import PublicUrl
from server.problem import Problem
from server.web.edge.authorization import LOOPBACK_COOKIE, SECURE_COOKIE, is_plain_loopback
from server.web.edge.client_address import ClientAddresses
from server.web.edge.host_origin_cors import is_loopback_host
from server.web.edge.http_messages import JSON, Endpoint, Headers, PlainRequest, PlainResponse, end_line

RULE = "/v1/session"
_HEADERS: Headers = ((b"content-type", JSON.encode()), (b"cache-control", b"no-store"))


class SessionShown(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes the request, and what they may do."""

    tenant: str
    subject: Annotated[str, Meta(description="The `by` of what they do; `anonymous` where nobody has to sign in.")]
    scopes: Annotated[list[str], Meta(description="What they may do.")]
    expires_at: Annotated[datetime | None, Meta(description="When the credential expires; null for never.")]


class SessionEndpoints:
    """The endpoints of `/v1/session`, by method."""

    def __init__(self, authenticator: Authenticator, addresses: ClientAddresses, public: PublicUrl) -> None:
        self._authenticator = authenticator
        self._addresses = addresses
        self._public = public
        self.by_method: Mapping[str, Endpoint] = {"POST": self.sign_in, "GET": self.show, "DELETE": self.sign_out}

    async def sign_in(self, request: PlainRequest) -> PlainResponse:
        """`POST /v1/session`: 201 and the cookie; where nobody has to sign in, 200 and no cookie.

        Raises `Problem` 401 for anything but a key or a token, 403 `https_required`; `StoreUnavailable`.
        """
        if request.principal.credential == NO_CREDENTIAL:
            return PlainResponse(200, _HEADERS, _shown(request, None))
        secure = self._is_secure(request)
        if not secure and not is_plain_loopback(request):
            # Through a proxy, a page of a loopback address: browsers trust such a page as one that came by https
            # (https://w3c.github.io/webappsec-secure-contexts/#is-origin-trustworthy), and keep a `Secure` cookie.
            secure = is_loopback_host(urlsplit(request.headers.get("origin", "")).netloc)
        if not secure and not is_plain_loopback(request):
            raise Problem(
                403,
                "https_required",
                "A browser is signed in over https only, or on the server's own machine. If there is https in "
                "front of this server, set TOKENTAPE_PUBLIC_URL, or name the proxy in TOKENTAPE_TRUSTED_PROXIES.",
            )
        session = await self._authenticator.create_session(request.principal)
        cookie = _cookie(session.text, int(session.seconds), secure=secure)
        return PlainResponse(201, (*_HEADERS, cookie), _shown(request, session.expires_at))

    async def show(self, request: PlainRequest) -> PlainResponse:
        """`GET /v1/session`: who makes the request, with whatever credential."""
        return PlainResponse(200, _HEADERS, _shown(request, self._authenticator.expires_at(request.principal)))

    async def sign_out(self, request: PlainRequest) -> PlainResponse:
        """`DELETE /v1/session`: 204; ends the session, its tickets and their streams, and removes the cookie."""
        await self._authenticator.end_session(request.principal)
        gone = _cookie("", 0, secure=self._is_secure(request) or not is_plain_loopback(request))
        return PlainResponse(204, ((b"cache-control", b"no-store"), gone))

    def _is_secure(self, request: PlainRequest) -> bool:
        """Whether the browser came by https, as far as anything says so.

        A page's `Origin` was found to be one of ours before. A program may claim what it likes: it is its own
        cookie.
        """
        origin = request.headers.get("origin", self._public.origin or "")
        return self._addresses.is_secure(request.scope) or origin.lower().startswith("https://")


def _cookie(value: str, seconds: int, *, secure: bool) -> tuple[bytes, bytes]:
    name, more = (SECURE_COOKIE, "; Secure") if secure else (LOOPBACK_COOKIE, "")
    return (
        b"set-cookie",
        f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{more}".encode("ascii"),
    )


def _shown(request: PlainRequest, expires_at: datetime | None) -> bytes:
    principal = request.principal
    shown = SessionShown(
        tenant=principal.tenant,
        subject=principal.subject,
        scopes=in_order(principal.scopes),
        expires_at=expires_at,
    )
    return end_line(msgspec.json.encode(shown))
