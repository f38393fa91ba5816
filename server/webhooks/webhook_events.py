"""The events of one webhook, and their fold into its state. Only this file knows their fields. Pure.

Each webhook has a stream of its own, which no client can read: its URL may hold a secret. Clients are shown a
`WebhookSnapshot`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
DELIVERED, GAVE_UP, DONE = "webhook.delivered", "webhook.gave_up", "webhook.done"
WAITING, WAIT_TRIED, WAIT_ENDED = "webhook.waiting", "webhook.wait_tried", "webhook.wait_ended"

MAX_ENDED_WAITS: Final = 100
"""So many waits that are over are kept in the state, the newest: a run may wait any number of times."""

HIDDEN_ERRORS: Final = ("name_not_found", "private_address")
NO_ALLOWED_ADDRESS: Final = "no_allowed_address"
"""What clients see for each of `HIDDEN_ERRORS`: the host's name leads to no address that webhooks may go to."""

Status = Literal["pending", "delivered", "gave_up", "done"]
WaitStatus = Literal["pending", "delivered", "gave_up", "over"]
Told = Literal["ended", "waiting"]
"""What receivers are told of: a generation's end, and each of its waits."""
ENDED_ONLY: Final[tuple[Told, ...]] = ("ended",)
"""What a receiver is told of that does not say."""
WaitingFor = Literal["approval", "input", "budget"]
"""`approval`: a person's decision on calls; `input`: the results of calls that a client runs."""


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


class WaitingCall(msgspec.Struct, frozen=True):
    """A call that a run waits for. `position`: of the event with which that began."""

    call: str
    name: str
    position: int
    expires_at: str | None = None


class WaitMessage(msgspec.Struct, frozen=True):
    """The message about one wait: for calls, or for a larger budget.

    `position` is that of the event with which the wait began, `since` its time. `budget`: `bound`, `limit` and
    `used`. `over`: the wait was over before the receiver took the message, so nobody is told any more.
    """

    position: int
    since: datetime
    waiting_for: WaitingFor
    calls: tuple[WaitingCall, ...] = ()
    budget: dict[str, Any] | None = None
    status: WaitStatus = "pending"
    tries: tuple[Try, ...] = ()

    @property
    def last_position(self) -> int:
        """The position of the last event that the message tells of."""
        return max((one.position for one in self.calls), default=self.position)


class WaitSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How the message about one wait stands."""

    position: Annotated[int, Meta(ge=1, description="Of the event with which the wait began.")]
    waiting_for: WaitingFor
    calls: Annotated[list[str], Meta(description="The ids of the calls that it waits for.")]
    status: Annotated[WaitStatus, Meta(description="`over`: the wait ended before the receiver took the message.")]
    tries: list[Try]


class WebhookSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How a generation's webhook stands. `status` and `tries` are those of the message about its end."""

    status: Annotated[
        Status, Meta(description="`done`: the generation has ended, and the receiver wants no message about that.")
    ]
    url: Annotated[str, Meta(description="Scheme, host and port. The path may hold a secret.")]
    events: Annotated[list[Told], Meta(description="What the receiver is told of.")]
    reason: Annotated[str | None, Meta(description="Why it was given up.")]
    tries: list[Try]
    waits: Annotated[
        list[WaitSnapshot],
        Meta(description=f"The messages about its waits, oldest first; of those that are over {MAX_ENDED_WAITS}."),
    ]


class WebhookState(msgspec.Struct, frozen=True):
    """The fold of a webhook's events. `newest_at`: when the last event was written, by the store's clock.

    `told_up_to`: every wait that began at or before this position of the conversation has its message.
    """

    generation: str
    conversation: str
    url: str
    newest_at: datetime
    status: Status = "pending"
    reason: str | None = None
    tries: tuple[Try, ...] = ()
    tenant: str = DEFAULT_TENANT
    events: tuple[Told, ...] = ENDED_ONLY
    waits: tuple[WaitMessage, ...] = ()
    told_up_to: int = 0

    @property
    def host(self) -> str:
        """Where it goes to: the host of its URL."""
        return parse_target_url(self.url).address.host

    def __repr__(self) -> str:
        return f"WebhookState({self.generation!r}, {self.status!r}, tries={len(self.tries)})"

    def snapshot(self) -> WebhookSnapshot:
        """What clients are shown of the webhook."""
        origin = parse_target_url(self.url).origin
        waits = [
            WaitSnapshot(
                position=one.position,
                waiting_for=one.waiting_for,
                calls=[call.call for call in one.calls],
                status=one.status,
                tries=[each.shown() for each in one.tries],
            )
            for one in self.waits
        ]
        return WebhookSnapshot(
            status=self.status,
            url=origin,
            events=list(self.events),
            reason=self.reason,
            tries=[one.shown() for one in self.tries],
            waits=waits,
        )


def stream_of(generation: str) -> str:
    """The name of the generation's webhook: its stream, and that stream's writer."""
    return PREFIX + generation.partition("_")[2]


def is_webhook(writer: str) -> bool:
    """Whether a writer of this name drives a webhook."""
    return writer.startswith(PREFIX)


def _event(kind: str, **fields: Any) -> NewEvent:
    return NewEvent(kind, msgspec.json.encode(fields).decode())


def requested(
    generation: str,
    conversation: str,
    url: str,
    tenant: str = DEFAULT_TENANT,
    events: Sequence[Told] = ENDED_ONLY,
) -> NewEvent:
    """A client asks for the webhook. Always position 1.

    `tenant`: of the conversation. It is left out for `default`, and `events` where only the end is told.
    """
    owner = {} if tenant == DEFAULT_TENANT else {"tenant": tenant}
    told = {} if tuple(events) == ENDED_ONLY else {"events": list(events)}
    return _event(REQUESTED, generation=generation, conversation=conversation, url=url, **owner, **told)


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


def done() -> NewEvent:
    """The generation has ended, and the receiver wants no message about that. The webhook has ended."""
    return _event(DONE)


def waiting(message: WaitMessage) -> NewEvent:
    """The run waits, and the receiver is to be told. Durable before the first try, so each try says the same."""
    fields = {"position": message.position, "since": message.since, "waiting_for": message.waiting_for}
    if message.budget is not None:
        return _event(WAITING, **fields, budget=message.budget)
    return _event(WAITING, **fields, calls=message.calls)


def wait_tried(wait: int, attempt: int, status: int | None, error: str | None, ms: int) -> NewEvent:
    """One try of the message about the wait at this position was made. The other arguments are as of `tried`."""
    outcome = {"status": status} if status is not None else {"error": error}
    return _event(WAIT_TRIED, wait=wait, attempt=attempt, **outcome, ms=ms)


def wait_ended(wait: int, status: WaitStatus) -> NewEvent:
    """No further try of the message about the wait at this position will be made."""
    return _event(WAIT_ENDED, wait=wait, status=status)


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
                fields["generation"],
                fields["conversation"],
                fields["url"],
                event.at,
                tenant=tenant,
                events=tuple(fields.get("events", ENDED_ONLY)),
            )
        else:
            return None
    return hook


def _after(hook: WebhookState, event: Event, fields: Mapping[str, Any]) -> WebhookState:
    change = _CHANGES.get(event.type)
    return hook if change is None else change(hook, event, fields)


def _tried(hook: WebhookState, event: Event, fields: Mapping[str, Any]) -> WebhookState:
    return replace(_without_pending_waits(hook), tries=(*hook.tries, _try(event, fields)))


def _try(event: Event, fields: Mapping[str, Any]) -> Try:
    return Try(
        attempt=fields["attempt"],
        at=event.at,
        status=fields.get("status"),
        error=fields.get("error"),
        ms=fields["ms"],
    )


def _ended(hook: WebhookState, event: Event, fields: Mapping[str, Any]) -> WebhookState:
    return replace(
        _without_pending_waits(hook), status=_END_STATUS[event.type], reason=fields.get("reason", hook.reason)
    )


def _without_pending_waits(hook: WebhookState) -> WebhookState:
    """The generation has ended, or the receiver wants no more: nobody is told of its waits any longer."""
    if not any(one.status == "pending" for one in hook.waits):
        return hook
    waits = (replace(one, status="over") if one.status == "pending" else one for one in hook.waits)
    return replace(hook, waits=tuple(waits))


def _began_to_wait(hook: WebhookState, event: Event, fields: Mapping[str, Any]) -> WebhookState:
    message = msgspec.convert(fields, WaitMessage)
    ended = [one.position for one in hook.waits if one.status != "pending"]
    dropped = set(ended[: max(0, len(ended) - MAX_ENDED_WAITS)])
    kept = (one for one in hook.waits if one.position not in dropped)
    told_up_to = max(hook.told_up_to, message.last_position)
    return replace(hook, waits=(*kept, message), told_up_to=told_up_to)


def _wait_changed(hook: WebhookState, event: Event, fields: Mapping[str, Any]) -> WebhookState:
    def changed(one: WaitMessage) -> WaitMessage:
        if one.position != fields["wait"]:
            return one
        if event.type == WAIT_TRIED:
            return replace(one, tries=(*one.tries, _try(event, fields)))
        return replace(one, status=fields["status"])

    return replace(hook, waits=tuple(map(changed, hook.waits)))


_END_STATUS: Final[Mapping[str, Status]] = {DELIVERED: "delivered", GAVE_UP: "gave_up", DONE: "done"}
_CHANGES: Final[Mapping[str, Callable[[WebhookState, Event, Mapping[str, Any]], WebhookState]]] = {
    TRIED: _tried,
    **dict.fromkeys(_END_STATUS, _ended),
    WAITING: _began_to_wait,
    **dict.fromkeys((WAIT_TRIED, WAIT_ENDED), _wait_changed),
}
