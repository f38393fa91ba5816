"""The events of one webhook, and their fold into its state. Only this file knows their fields. Pure.

Each webhook has a stream of its own, which no client can read: its URL may hold a secret. Clients are shown a
`WebhookSnapshot`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from eventstore import Event, NewEvent
from server.event_types import DEFAULT_TENANT
from server.webhooks.target_address import parse_target_url

CATEGORY: Final = "webhook"
"""The category of webhooks' streams."""
PREFIX: Final = "hook_"
FIRST_EPOCH: Final = 1
"""The epoch of the process that made the webhook. Each takeover has the next one."""

REQUESTED, TAKEN_OVER, TRIED = "webhook.requested", "webhook.taken_over", "webhook.tried"
DELIVERED, GAVE_UP = "webhook.delivered", "webhook.gave_up"

HIDDEN_ERRORS: Final = ("name_not_found", "private_address")
NO_ALLOWED_ADDRESS: Final = "no_allowed_address"
"""What clients see for each of `HIDDEN_ERRORS`: the host's name leads to no address that webhooks may go to."""

Status = Literal["pending", "delivered", "gave_up"]


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One POST: the receiver's `status`, or the `error` that kept it from answering."""

    attempt: Annotated[int, Meta(ge=1)]
    at: datetime
    status: int | None
    error: str | None
    ms: Annotated[int, Meta(ge=0, description="How long it took; 0 for `no_allowed_address`.")]

    def shown(self) -> "Try":
        """The try as clients may see it.

        A name that does not exist and a name with a private address look the same, in code and in time. Otherwise
        a client could find out, by registering URLs, which names the operator's network has. The log tells them
        apart.
        """
        return replace(self, error=NO_ALLOWED_ADDRESS, ms=0) if self.error in HIDDEN_ERRORS else self


class WebhookSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How a generation's webhook stands."""

    status: Status
    url: Annotated[str, Meta(description="Scheme, host and port. The path may hold a secret.")]
    reason: Annotated[str | None, Meta(description="Why it was given up.")]
    tries: list[Try]


class WebhookState(msgspec.Struct, frozen=True):
    """The fold of a webhook's events. `newest_at`: when the last event was written, by the store's clock."""

    generation: str
    conversation: str
    url: str
    newest_at: datetime
    status: Status = "pending"
    reason: str | None = None
    tries: tuple[Try, ...] = ()
    tenant: str = DEFAULT_TENANT

    @property
    def host(self) -> str:
        """Where it goes to: the host of its URL."""
        return parse_target_url(self.url).address.host

    def __repr__(self) -> str:
        return f"WebhookState({self.generation!r}, {self.status!r}, tries={len(self.tries)})"

    def snapshot(self) -> WebhookSnapshot:
        """What clients are shown of the webhook."""
        origin = parse_target_url(self.url).origin
        tries = [one.shown() for one in self.tries]
        return WebhookSnapshot(status=self.status, url=origin, reason=self.reason, tries=tries)


def stream_of(generation: str) -> str:
    """The name of the generation's webhook: its stream, and that stream's writer."""
    return PREFIX + generation.partition("_")[2]


def is_webhook(writer: str) -> bool:
    """Whether a writer of this name drives a webhook."""
    return writer.startswith(PREFIX)


def _event(kind: str, **fields: Any) -> NewEvent:
    return NewEvent(kind, msgspec.json.encode(fields).decode())


def requested(generation: str, conversation: str, url: str, tenant: str = DEFAULT_TENANT) -> NewEvent:
    """A client asks for the webhook. Always position 1. `tenant`: of the conversation; left out for `default`."""
    owner = {} if tenant == DEFAULT_TENANT else {"tenant": tenant}
    return _event(REQUESTED, generation=generation, conversation=conversation, url=url, **owner)


def taken_over(epoch: int) -> NewEvent:
    """Another process takes the webhook over, in this epoch: the former one is gone."""
    return _event(TAKEN_OVER, epoch=epoch)


def tried(attempt: int, status: int | None, error: str | None, ms: int) -> NewEvent:
    """One try was made. It has a `status`, or an `error`, and took `ms` milliseconds."""
    outcome = {"status": status} if status is not None else {"error": error}
    return _event(TRIED, attempt=attempt, **outcome, ms=ms)


def delivered(attempt: int) -> NewEvent:
    """The receiver took the try of this number. The webhook has ended."""
    return _event(DELIVERED, attempt=attempt)


def gave_up(attempts: int, reason: str) -> NewEvent:
    """No further try will be made, after so many. The webhook has ended."""
    return _event(GAVE_UP, attempts=attempts, reason=reason)


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def fold(events: Iterable[Event]) -> WebhookState | None:
    """The webhook's state after all events of its stream; None: the stream does not begin with a request."""
    hook: WebhookState | None = None
    for event in events:
        fields = _decode(event.data)
        if hook is not None:
            hook = _after(replace(hook, newest_at=event.at), event, fields)
        elif event.type == REQUESTED:
            tenant = fields.get("tenant", DEFAULT_TENANT)
            hook = WebhookState(
                fields["generation"], fields["conversation"], fields["url"], event.at, tenant=tenant
            )
        else:
            return None
    return hook


def _after(hook: WebhookState, event: Event, fields: Mapping[str, Any]) -> WebhookState:
    if event.type == TRIED:
        one = Try(
            attempt=fields["attempt"],
            at=event.at,
            status=fields.get("status"),
            error=fields.get("error"),
            ms=fields["ms"],
        )
        return replace(hook, tries=(*hook.tries, one))
    if event.type == DELIVERED:
        return replace(hook, status="delivered")
    if event.type == GAVE_UP:
        return replace(hook, status="gave_up", reason=fields["reason"])
    return hook
