"""The delivery of one webhook: waits for the generation's terminal event, and tries until the receiver takes it.

Owns the schedule of the tries, which is that of Standard Webhooks, and the other options of webhooks; the bounds
protect receivers and this process.

Each try is recorded before the next one is made. A process may die between a POST and its record; the next process
makes that try again. So no crash loses a message, and a receiver may get the same one twice (with the same id).
Each append carries the next sequence number of the webhook's writer: when another process has taken over, the
append raises `Fenced`, and this delivery ends. It must not know HTTP.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from weakref import WeakValueDictionary

import trio
from pydantic import SecretStr

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
from server.config.web_addresses import PublicUrl
from server.conversations import idempotency_keys
from server.event_types import TERMINAL
from server.observability import logs
from server.observability.metrics import Counter
from server.webhooks import sender, webhook_events
from server.webhooks.sender import Outcome, Sender
from server.webhooks.target_address import ANY_PORT, USUAL_PORTS
from server.webhooks.webhook_events import WebhookState

MINUTE, HOUR = 60.0, 3600.0
SCHEDULE = (0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR)
"""Seconds before each try. Standard Webhooks 1.0, "Deliverability and reliability", as far as it fits in a day."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """The options of webhooks.

    `secret` (`whsec_…`) signs; without one no webhook is accepted. `allow_private`: receivers may be in private
    networks. `ports`: ports that receivers may listen on; by default `USUAL_PORTS`, or any port where private
    networks are allowed.

    `schedule`: seconds before each try; the first counts from the generation's end. Each pause is lengthened by a
    random part of itself, at most `jitter`, so that a receiver that comes back does not get all webhooks at once.
    `timeout`: seconds that one try may take. `most_at_once`: tries under way in this process, of which
    `most_of_tenant` may be of one tenant and `most_to_host` go to one host. `most_open`: webhooks of one tenant
    that this process has not done with. `pause`: seconds between two reads of a conversation that grows. `public`:
    the URL of this server, as receivers see it.
    """

    secret: SecretStr | None = None
    allow_private: bool = False
    ports: tuple[range, ...] = ()
    schedule: tuple[float, ...] = SCHEDULE
    jitter: float = 0.2
    timeout: float = 15.0
    most_at_once: int = 50
    most_of_tenant: int = 25
    most_to_host: int = 10
    most_open: int = 10_000
    pause: float = 0.2
    public: PublicUrl = field(default_factory=PublicUrl)

    @property
    def allowed_ports(self) -> tuple[range, ...]:
        """The ranges of ports that receivers may listen on."""
        return self.ports or (ANY_PORT if self.allow_private else USUAL_PORTS)


class TryPlaces:
    """The places for tries of one process.

    One tenant, or one receiver that lets each try wait for its whole time, leaves places for all others.
    """

    def __init__(self, options: WebhookOptions) -> None:
        self._options = options
        self._all = trio.CapacityLimiter(options.most_at_once)
        # Weak: each lasts as long as a try waits for it or has a place.
        self._some: WeakValueDictionary[tuple[str, str], trio.CapacityLimiter] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, tenant: str, host: str) -> AsyncIterator[None]:
        """A place for one try, as soon as there is one. A place of all is taken last, so that none waits in it."""
        of_tenant = self._limiter("tenant", tenant, self._options.most_of_tenant)
        to_host = self._limiter("host", host, self._options.most_to_host)
        async with of_tenant, to_host, self._all:
            yield

    def _limiter(self, kind: str, name: str, most: int) -> trio.CapacityLimiter:
        limiter = self._some.get((kind, name))
        if limiter is None:
            limiter = self._some[kind, name] = trio.CapacityLimiter(most)
        return limiter


log = logs.get("webhooks")

NAME_SECONDS = 5.0
"""How long a try takes whose host name leads to no allowed address: so nobody can tell by the
time whether the name exists inside the operator's network."""
NEVER_REQUESTED = "never requested"
EXPIRED = "the generation's events are not kept any more"
GONE = "the receiver wants no more (410)"
USED_UP = "no try left"


async def wait_for_terminal_event(store: EventStore, place: Place, generation: str, pause: float) -> Event | None:
    """Waits for the terminal event of a generation. None: retention has erased it.

    `place` is where the generation was requested.

    Reads a page, and then sleeps `pause` seconds: a task that woke at every token would cost more than an end that
    is seen a moment later. Outages of the store only make the wait longer.
    """
    after = place.last
    bound: int | None = None  # the terminal event, if it is still there, is not after this position
    while True:
        try:
            with store.subscribe(place.stream, after) as subscription:
                while bound is None or after < bound:
                    found = await retry_until_available(subscription.next)
                    for event in found:
                        if event.tag == generation and event.type in TERMINAL:
                            return event
                    after = subscription.position
                    if len(found) < store.options.read_limit:
                        await trio.sleep(pause)
            return None
        except Trimmed as trimmed:
            after = trimmed.earliest - 1
            bound = await retry_until_available(partial(_last_possible_position, store, place.stream, generation))
        except (StreamUnknown, Erased):
            return None


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
        end = await wait_for_terminal_event(self._store, place, webhook.generation, self._options.pause)
        if end is None:
            await self._give_up(webhook, EXPIRED)
            return
        body = sender.body(webhook.generation, place.stream, end, self._options.public)
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
        """Makes one try and records it. Returns whether it was the last."""
        started = trio.current_time()
        async with self._places.place(webhook.tenant, webhook.host):
            outcome = await self._post(webhook, body)
        if outcome.error in webhook_events.HIDDEN_ERRORS:
            log.warning("webhook has nowhere to go", attempt=attempt, why=outcome.error, ms=outcome.ms)
            # Clients see when the try was recorded. An internal name fails at once, an unknown one takes longer.
            await trio.sleep_until(started + NAME_SECONDS)
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

    async def _post(self, webhook: WebhookState, body: bytes) -> Outcome:
        secret = self._options.secret
        assert secret is not None, "without a secret no webhook is driven"
        headers = sender.headers(secret, webhook.generation, datetime.now(UTC), body)
        return await self._sender.post(webhook.url, headers, body)

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
