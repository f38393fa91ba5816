"""The facts of one webhook, and the fold of them. Pure, and the only place that reads their fields.

They stand in a stream of the webhook's own, which is never served: its URL may hold a secret. What may be shown is
`WebhookSnapshot`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from eventstore import Event, NewEvent
from server.webhooks.target import parse_target

CATEGORY: Final = "webhook"
"""Of the streams; the scope of the keys by which each is made once."""
TAKEOVER_SCOPE: Final = "webhook takeover"
PREFIX: Final = "hook_"
FIRST_EPOCH: Final = 1
"""Of whoever made the webhook; each takeover counts on."""

REQUESTED, TAKEN_OVER, TRIED = "webhook.requested", "webhook.taken_over", "webhook.tried"
DELIVERED, GAVE_UP = "webhook.delivered", "webhook.gave_up"

NAMES_FAULTS: Final = ("name_not_found", "private_address")
NO_ALLOWED_ADDRESS: Final = "no_allowed_address"
"""Said to clients for each of `NAMES_FAULTS`: the host's name leads to no address that webhooks may go to."""

Status = Literal["pending", "delivered", "gave_up"]


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One POST: the receiver's `status`, or the `error` that kept it from answering."""

    attempt: Annotated[int, Meta(ge=1)]
    at: datetime
    status: int | None
    error: str | None
    ms: Annotated[int, Meta(ge=0, description="How long it took; 0 for `no_allowed_address`.")]

    def shown(self) -> "Try":
        """What a client may know of it.

        A name that is not found and one that leads to a private address look the same, by the code and by the
        time: else whoever may name URLs could ask which names our network has. Our log has the difference.
        """
        return replace(self, error=NO_ALLOWED_ADDRESS, ms=0) if self.error in NAMES_FAULTS else self


class WebhookSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How a generation's webhook stands."""

    status: Status
    url: Annotated[str, Meta(description="Scheme, host and port. The path may hold a secret.")]
    reason: Annotated[str | None, Meta(description="Why it was given up.")]
    tries: list[Try]


class Hook(msgspec.Struct, frozen=True):
    """A webhook as its events made it. `newest_at`: when the last of them was written."""

    generation: str
    conversation: str
    url: str
    newest_at: datetime
    status: Status = "pending"
    reason: str | None = None
    tries: tuple[Try, ...] = ()

    def __repr__(self) -> str:
        return f"Hook({self.generation!r}, {self.status!r}, tries={len(self.tries)})"

    def snapshot(self) -> WebhookSnapshot:
        """What may be shown of it."""
        origin = parse_target(self.url).origin
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


def requested(generation: str, conversation: str, url: str) -> NewEvent:
    """Always position 1."""
    return _event(REQUESTED, generation=generation, conversation=conversation, url=url)


def taken_over(epoch: int) -> NewEvent:
    """Another process goes on with it, for the one before is gone."""
    return _event(TAKEN_OVER, epoch=epoch)


def tried(attempt: int, status: int | None, error: str | None, ms: int) -> NewEvent:
    """A POST came to something."""
    said = {"status": status} if status is not None else {"error": error}
    return _event(TRIED, attempt=attempt, **said, ms=ms)


def delivered(attempt: int) -> NewEvent:
    """The end, well."""
    return _event(DELIVERED, attempt=attempt)


def gave_up(attempts: int, reason: str) -> NewEvent:
    """The end, badly, after so many tries."""
    return _event(GAVE_UP, attempts=attempts, reason=reason)


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def fold(events: Iterable[Event]) -> Hook | None:
    """The webhook that all events of its stream made; None where the first does not make one."""
    hook: Hook | None = None
    for event in events:
        fields = _decode(event.data)
        if hook is not None:
            hook = _after(replace(hook, newest_at=event.at), event, fields)
        elif event.type == REQUESTED:
            hook = Hook(fields["generation"], fields["conversation"], fields["url"], event.at)
        else:
            return None
    return hook


def _after(hook: Hook, event: Event, fields: Mapping[str, Any]) -> Hook:
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
