"""The delivery of one webhook: follows its generation, and tries until the receiver takes each message.

Each try is recorded before the next one is made. A process may die between a POST and its record; the next process
makes that try again. So no crash loses a message, and a receiver may get the same one twice (with the same id).
Each append carries the next sequence number of the webhook's writer: when another process has taken over, the
append raises `Fenced`, and this delivery ends. Messages about waits are in `wait_messages`. It must not know HTTP.
"""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import trio

from eventstore import (
    Append,
    Erased,
    Event,
    EventStore,
    NewEvent,
    Place,
    StreamUnknown,
    Trimmed,
    Writer,
)
from eventstore.db_retry import retry_until_available
from eventstore.subscription import Subscription
from server.conversations import idempotency_keys
from server.event_types import TERMINAL
from server.observability import logs
from server.observability.metrics import Counter
from server.webhooks import webhook_events, webhook_messages
from server.webhooks.retry_schedule import TryPlaces, WebhookOptions
from server.webhooks.sender import Outcome, Sender
from server.webhooks.wait_messages import ReceiverGone, WaitTries
from server.webhooks.webhook_events import WebhookState

log = logs.get("webhooks")

NAME_SECONDS = 5.0
"""How long a try takes whose host name leads to no allowed address: so nobody can tell by the
time whether the name exists inside the operator's network."""
NEVER_REQUESTED = "never requested"
EXPIRED = "the generation's events are not kept any more"
GONE = "the receiver wants no more (410)"
USED_UP = "no try left"


async def follow_generation(
    store: EventStore, place: Place, generation: str, pause: float, waits: WaitTries | None = None
) -> Event | None:
    """Waits for the terminal event of a generation. None: retention has erased it.

    `place` is where the generation was requested. `waits` is given the generation's events, and tells receivers of
    its waits, until the end. Raises what `WaitTries.tell` raises.

    Reads a page, and then sleeps `pause` seconds: a task that woke at every token would cost more than an end that
    is seen a moment later. Outages of the store only make the wait longer.
    """
    after = place.last
    bound: int | None = None  # the terminal event, if it is still there, is not after this position
    while True:
        try:
            with store.subscribe(place.stream, after) as subscription:
                while bound is None or after < bound:
                    found = await _next_events(subscription, math.inf if waits is None else waits.due)
                    for event in found:
                        if event.tag == generation and event.type in TERMINAL:
                            return event
                        if waits is not None:
                            waits.add(event)
                    after = subscription.position
                    # Behind the head nothing is told: what begins to wait here may be over a page later.
                    if waits is not None and after >= subscription.head and waits.due <= trio.current_time():
                        await waits.tell()
                    elif len(found) < store.options.read_limit:
                        await trio.sleep(pause)
            return None
        except Trimmed as trimmed:
            after = trimmed.earliest - 1
            bound = await retry_until_available(partial(_last_possible_position, store, place.stream, generation))
        except (StreamUnknown, Erased):
            return None


async def _next_events(subscription: Subscription, until: float) -> Sequence[Event]:
    """The next events; none where there are none at the time `until`, by trio's clock."""
    with trio.move_on_at(until):
        return await retry_until_available(subscription.next)
    return await retry_until_available(subscription.poll)


async def _last_possible_position(store: EventStore, conversation: str, generation: str) -> int | None:
    """The position after which the terminal event cannot come: the log's head, once the generation has ended.

    None: it has not ended.
    """
    writer = await store.writer(conversation, generation)
    if writer is not None and not writer.closed:
        return None
    try:
        return (await store.head(conversation)).position  # read after the writer: the terminal event closed it
    except (StreamUnknown, Erased):
        return 0


async def read_webhook(store: EventStore, stream: str) -> WebhookState | None:
    """The state of the webhook in this stream; None: there is none. Raises `StoreUnavailable`."""
    events: list[Event] = []
    try:
        while True:
            found = await store.read(stream, len(events))
            events += found.events
            if len(events) >= found.head or not found.events:
                return webhook_events.fold(events)
    except (StreamUnknown, Erased):
        return None


class Delivery:
    """Delivers the webhook of `stream`, whose writer has this name too, in one epoch.

    The caller has made the first append of the epoch. `places` bounds the tries under way in this process.
    """

    def __init__(
        self,
        store: EventStore,
        sender: Sender,
        options: WebhookOptions,
        places: TryPlaces,
        counter: Counter,
        stream: str,
        epoch: int,
    ) -> None:
        self._store = store
        self._sender = sender
        self._options = options
        self._places = places
        self._counter = counter
        self._stream = stream
        self._epoch = epoch
        self._seq = 1

    async def run(self) -> None:
        """Runs until the webhook has ended. Raises `Fenced`: another process drives it. Other errors are bugs."""
        webhook = await retry_until_available(partial(read_webhook, self._store, self._stream))
        if webhook is None or webhook.status != "pending":
            return
        logs.bind(generation=webhook.generation, conversation=webhook.conversation)
        place = await retry_until_available(
            partial(self._store.find_key, idempotency_keys.GENERATION, webhook.generation)
        )
        if place is None:
            await self._give_up(webhook, NEVER_REQUESTED)
            return
        waits = None
        if "waiting" in webhook.events:
            make_try = partial(self._make_try, webhook)
            waits = WaitTries(webhook, place.stream, self._options, self._counter, self._write, make_try)
        try:
            end = await follow_generation(self._store, place, webhook.generation, self._options.pause, waits)
        except ReceiverGone as gone:
            await self._give_up(webhook, GONE, None, *gone.records)
            return
        if end is None:
            await self._give_up(webhook, EXPIRED)
        elif "ended" not in webhook.events:
            await self._write((webhook_events.done(),), last=True)
        else:
            await self._tell_end(webhook, place.stream, end)

    async def _tell_end(self, webhook: WebhookState, conversation: str, end: Event) -> None:
        body = webhook_messages.end_body(webhook.generation, conversation, end, self._options.public)
        # Only the store's clock tells how long ago the last try was: another process may have made it.
        passed = (webhook.newest_at - webhook.tries[-1].at).total_seconds() if webhook.tries else 0.0
        for attempt in range(len(webhook.tries) + 1, len(self._options.schedule) + 1):
            await trio.sleep(max(0.0, self._delay(attempt) - passed))
            passed = 0.0
            if await self._try(webhook, attempt, body):
                return
        await self._give_up(webhook, USED_UP)  # a former configuration had more tries

    def _delay(self, attempt: int) -> float:
        return self._options.schedule[attempt - 1] * (1 + self._options.jitter * random.random())

    async def _try(self, webhook: WebhookState, attempt: int, body: bytes) -> bool:
        """Makes one try of the message about the end and records it. Returns whether it was the last."""
        outcome = await self._make_try(webhook, attempt, webhook_messages.end_id(webhook.generation), body)
        record = webhook_events.tried(attempt, outcome.status, outcome.error, outcome.ms)
        if outcome.delivered:
            await self._write((record, webhook_events.delivered(attempt)), last=True)
            self._counter.add("delivered")
            log.info("webhook delivered", attempt=attempt, status=outcome.status, ms=outcome.ms)
            return True
        self._counter.add("failed")
        if outcome.gone or attempt >= len(self._options.schedule):
            await self._give_up(webhook, GONE if outcome.gone else USED_UP, attempt, record)
            return True
        await self._write((record,))
        return False

    async def _make_try(self, webhook: WebhookState, attempt: int, message: str, body: bytes) -> Outcome:
        """Sends the message with this id once."""
        started = trio.current_time()
        async with self._places.place(webhook.tenant, webhook.host):
            headers = webhook_messages.headers(self._options, message, datetime.now(UTC), body)
            outcome = await self._sender.post(webhook.url, headers, body)
        if outcome.error in webhook_events.HIDDEN_ERRORS:
            log.warning("webhook has nowhere to go", attempt=attempt, why=outcome.error, ms=outcome.ms)
            # Clients see when the try was recorded. An internal name fails at once, an unknown one takes longer.
            await trio.sleep_until(started + NAME_SECONDS)
        return outcome

    async def _give_up(
        self, webhook: WebhookState, reason: str, attempts: int | None = None, *before: NewEvent
    ) -> None:
        tries = len(webhook.tries) if attempts is None else attempts
        await self._write((*before, webhook_events.gave_up(tries, reason)), last=True)
        self._counter.add("gave_up")
        log.warning("webhook given up", attempts=tries, why=reason)

    async def _write(self, events: tuple[NewEvent, ...], *, last: bool = False) -> None:
        writer = Writer(self._stream, self._epoch, self._seq + 1)
        append = Append(self._stream, events, writer=writer, closes=self._stream if last else None)
        await retry_until_available(partial(self._store.append, append))
        self._seq += 1
