"""One webhook, driven from the wait for its generation's end to its own.

Each try is durable before the next is made; where a process dies between a POST and its record, that try is made
again. So a receiver may hear twice (the id is the same), and never not at all. Every append carries the writer's
next `seq`: being fenced off ends it without a word, for another process goes on. It must not know HTTP.
"""

import random
from datetime import UTC, datetime
from functools import partial

import trio

from eventstore import Append, Erased, Event, EventStore, NewEvent, StreamUnknown, Writer
from server import logs
from server.events import GENERATION_SCOPE
from server.metrics.counting import Counter
from server.store_retry import insist
from server.webhooks import message, webhook_events
from server.webhooks.options import WebhookOptions
from server.webhooks.sender import Outcome, Sender
from server.webhooks.wait_for_end import find_end
from server.webhooks.webhook_events import Hook

log = logs.get("webhooks")

NAME_SECONDS = 5.0
"""After which a try is recorded whose name leads nowhere, however soon that was known."""
NEVER_REQUESTED = "never requested"
EXPIRED = "the generation's events are not kept any more"
GONE = "the receiver wants no more (410)"
USED_UP = "no try left"


async def read_hook(store: EventStore, stream: str) -> Hook | None:
    """The webhook as its events made it; None if there is none. Raises `StoreUnavailable`."""
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
    """The writer `stream` in one epoch, whose first append is made. `limiter` bounds the tries under way."""

    def __init__(
        self,
        store: EventStore,
        sender: Sender,
        options: WebhookOptions,
        limiter: trio.CapacityLimiter,
        counter: Counter,
        stream: str,
        epoch: int,
    ) -> None:
        self._store = store
        self._sender = sender
        self._options = options
        self._limiter = limiter
        self._counter = counter
        self._stream = stream
        self._epoch = epoch
        self._seq = 1

    async def run(self) -> None:
        """Until the webhook has ended. Raises `Fenced`: somebody else drives it; any other error is a fault."""
        hook = await insist(partial(read_hook, self._store, self._stream))
        if hook is None or hook.status != "pending":
            return
        logs.bind(generation=hook.generation, conversation=hook.conversation)
        place = await insist(partial(self._store.find_key, GENERATION_SCOPE, hook.generation))
        if place is None:
            await self._give_up(hook, NEVER_REQUESTED)
            return
        end = await find_end(self._store, place, hook.generation, self._options.pause)
        if end is None:
            await self._give_up(hook, EXPIRED)
            return
        body = message.body(hook.generation, place.stream, end, self._options.public)
        # How long ago the last try was is told by the store's clock alone: this process may be another one.
        passed = (hook.newest_at - hook.tries[-1].at).total_seconds() if hook.tries else 0.0
        for attempt in range(len(hook.tries) + 1, len(self._options.schedule) + 1):
            await trio.sleep(max(0.0, self._delay(attempt) - passed))
            passed = 0.0
            if await self._try(hook, attempt, body):
                return
        await self._give_up(hook, USED_UP)  # the schedule was longer when it was last tried

    def _delay(self, attempt: int) -> float:
        return self._options.schedule[attempt - 1] * (1 + self._options.jitter * random.random())

    async def _try(self, hook: Hook, attempt: int, body: bytes) -> bool:
        """One try and its record; whether it was the last."""
        started = trio.current_time()
        async with self._limiter:
            outcome = await self._post(hook, body)
        if outcome.error in webhook_events.NAMES_FAULTS:
            log.warning("webhook has nowhere to go", attempt=attempt, why=outcome.error, ms=outcome.ms)
            # The record's time is shown. An inside name is found at once, and a foreign one takes its time.
            await trio.sleep_until(started + NAME_SECONDS)
        record = webhook_events.tried(attempt, outcome.status, outcome.error, outcome.ms)
        if outcome.delivered:
            await self._write((record, webhook_events.delivered(attempt)), last=True)
            self._counter.add("delivered")
            log.info("webhook delivered", attempt=attempt, status=outcome.status, ms=outcome.ms)
            return True
        self._counter.add("failed")
        if outcome.gone or attempt >= len(self._options.schedule):
            await self._give_up(hook, GONE if outcome.gone else USED_UP, attempt, record)
            return True
        await self._write((record,))
        return False

    async def _post(self, hook: Hook, body: bytes) -> Outcome:
        secret = self._options.secret
        assert secret is not None, "nobody drives a webhook without a secret"
        headers = message.headers(secret, hook.generation, datetime.now(UTC), body)
        return await self._sender.post(hook.url, headers, body)

    async def _give_up(self, hook: Hook, reason: str, attempts: int | None = None, *before: NewEvent) -> None:
        tries = len(hook.tries) if attempts is None else attempts
        await self._write((*before, webhook_events.gave_up(tries, reason)), last=True)
        self._counter.add("gave_up")
        log.warning("webhook given up", attempts=tries, why=reason)

    async def _write(self, events: tuple[NewEvent, ...], *, last: bool = False) -> None:
        writer = Writer(self._stream, self._epoch, self._seq + 1)
        append = Append(self._stream, events, writer=writer, closes=self._stream if last else None)
        await insist(partial(self._store.append, append))
        self._seq += 1
