"""Tickets: `POST …/tickets` makes one for a stream, for readers that can send neither a header nor a cookie.

An `EventSource` or a WebSocket of another origin is such a reader. Must not know how a ticket is recognised.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from server.auth.authenticator import CONNECT_SECONDS, Authenticator
from server.config.web_addresses import PublicUrl
from server.problem import Problem
from server.web.commands.request_models import CreateTicket, check, read_body
from server.web.edge.http_messages import JSON, Endpoint, PlainRequest, PlainResponse, end_line


class TicketShown(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket. It is shown this once."""

    ticket: Annotated[str, Meta(pattern="^tt_tick_")]
    expires_at: Annotated[
        datetime, Meta(description=f"Until when its reader has to connect: {CONNECT_SECONDS:g} seconds at most.")
    ]
    url: Annotated[str, Meta(description="The stream's address, with the ticket in it.")]


def ticket_endpoints(authenticator: Authenticator, public: PublicUrl) -> Mapping[str, Endpoint]:
    """The endpoints, by the rules of their routes."""

    async def issue(request: PlainRequest, name: str) -> PlainResponse:
        asked = check(CreateTicket, read_body(request.headers, request.body))
        folder = "conversations" if name.startswith("conv_") else "generations"
        end = "ws" if asked.transport == "websocket" else "events"
        if (folder, end) == ("generations", "ws"):
            raise Problem(
                422,
                "invalid_request",
                "transport: a generation has no WebSocket; take one of its conversation.",
                extra={"field": "transport"},
            )
        ticket = await authenticator.issue_ticket(request.principal, name, asked.transport, asked.scopes)
        url = public.path(f"/v1/{folder}/{name}/{end}?ticket={ticket.text}")
        shown = TicketShown(ticket=ticket.text, expires_at=ticket.expires_at, url=url)
        headers = ((b"content-type", JSON.encode()), (b"cache-control", b"no-store"))
        return PlainResponse(201, headers, end_line(msgspec.json.encode(shown)))

    return {
        "/v1/conversations/<conv:name>/tickets": issue,
        "/v1/generations/<gen:name>/tickets": issue,
    }
