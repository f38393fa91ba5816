"""The messages about the waits of one generation: which are to be told, when each is due, and what came of a try.

A message is recorded before its first try, so every process tells the same of it. Its tries stop when its wait is
over: a person is not asked for what somebody else has done. One try is made at a time, and the log is read between
two of them. It must not know how the log is read, or what follows the generation's end.
"""

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from eventstore import Event, NewEvent
from server.observability import logs
from server.observability.metrics import Counter
from server.webhooks import webhook_events, webhook_messages
from server.webhooks.retry_schedule import WebhookOptions
from server.webhooks.run_waits import OpenWaits, is_over, new_messages
from server.webhooks.sender import Outcome
from server.webhooks.webhook_events import WaitMessage, WebhookState

log = logs.get("webhooks")

Write = Callable[[tuple[NewEvent, ...]], Awaitable[None]]
"""Appends to the webhook's stream."""
MakeTry = Callable[[int, str, bytes], Awaitable[Outcome]]
"""Makes the try of this number of the message with this id and body."""


@dataclass(slots=True)
class _Pending:
    """A message that the receiver has not taken. `due`: its next try, by trio's clock."""

    message: WaitMessage
    tries: int
    due: float


class ReceiverGone(Exception):
    """The receiver wants no more messages (410). `records`: what is to be recorded of the try that said so."""

    def __init__(self, *records: NewEvent) -> None:
        super().__init__()
        self.records = records


class WaitTries:
    """The messages about the waits of `webhook`'s generation, in one process."""

    def __init__(
        self,
        webhook: WebhookState,
        conversation: str,
        options: WebhookOptions,
        counter: Counter,
        write: Write,
        make_try: MakeTry,
    ) -> None:
        self._generation = webhook.generation
        self._conversation = conversation
        self._options = options
        self._counter = counter
        self._write = write
        self._make_try = make_try
        self._open = OpenWaits(webhook.generation)
        self._told_up_to = webhook.told_up_to
        self._new_due = math.inf
        self._read_up_to = 0
        now = trio.current_time()
        self._pending: dict[int, _Pending] = {}
        for one in webhook.waits:
            if one.status == "pending":
                # Only the store's clock tells how long ago the last try was: another process may have made it.
                passed = (webhook.newest_at - one.tries[-1].at).total_seconds() if one.tries else 0.0
                due = now + max(0.0, self._delay(len(one.tries) + 1) - passed)
                self._pending[one.position] = _Pending(one, len(one.tries), due)

    @property
    def due(self) -> float:
        """When `tell` has something to do, by trio's clock; infinity: only after another event."""
        if any(map(self._is_over, self._pending.values())):
            return -math.inf
        return min((self._new_due, *(one.due for one in self._pending.values())))

    def add(self, event: Event) -> None:
        """Takes the next event of the conversation."""
        self._read_up_to = event.position
        if not self._open.add(event):
            return
        if not self._open.after(self._told_up_to):
            self._new_due = math.inf
        elif self._new_due == math.inf:
            # Calls that begin to wait one after the other, in a moment, are told together.
            self._new_due = trio.current_time() + self._options.pause

    async def tell(self) -> None:
        """Records what is new and what is over, and makes at most one try. Call it at the head of the log.

        Raises `ReceiverGone`; `Fenced`: another process drives the webhook.
        """
        now = trio.current_time()
        over = [position for position, one in self._pending.items() if self._is_over(one)]
        new = new_messages(self._open, self._told_up_to) if self._new_due <= now else []
        records = (
            *(webhook_events.wait_ended(position, "over") for position in over),
            *map(webhook_events.waiting, new),
        )
        if records:
            await self._write(records)
        for position in over:
            del self._pending[position]
        if self._new_due <= now:
            self._new_due = math.inf
        for one in new:
            self._pending[one.position] = _Pending(one, 0, now + self._delay(1))
            self._told_up_to = max(self._told_up_to, one.last_position)
        next_one = min(self._pending.values(), key=lambda one: one.due, default=None)
        if next_one is not None and next_one.due <= trio.current_time():
            await self._try(next_one)

    def _is_over(self, pending: _Pending) -> bool:
        # 1. Another process records a message. 2. This process takes over, and reads the log from the request on.
        # 3. It has not come to the beginning of the wait: that it knows of no such wait means nothing yet.
        message = pending.message
        return self._read_up_to >= message.last_position and is_over(message, self._open)

    def _delay(self, attempt: int) -> float:
        if attempt > len(self._options.schedule):
            return 0.0
        return self._options.schedule[attempt - 1] * (1 + self._options.jitter * random.random())

    async def _try(self, pending: _Pending) -> None:
        wait, attempt, last = pending.message.position, pending.tries + 1, len(self._options.schedule)
        if attempt > last:  # a former configuration had more tries
            await self._end(pending, "gave_up")
            return
        name = webhook_messages.wait_id(self._generation, wait)
        body = webhook_messages.wait_body(
            self._generation, self._conversation, pending.message, self._options.public
        )
        outcome = await self._make_try(attempt, name, body)
        record = webhook_events.wait_tried(wait, attempt, outcome.status, outcome.error, outcome.ms)
        if outcome.delivered:
            self._counter.add("delivered")
            log.info("wait told", wait=wait, attempt=attempt, status=outcome.status, ms=outcome.ms)
            await self._end(pending, "delivered", record)
            return
        self._counter.add("failed")
        if outcome.gone:
            raise ReceiverGone(record, webhook_events.wait_ended(wait, "gave_up"))
        if attempt == last:
            await self._end(pending, "gave_up", record)
            return
        await self._write((record,))
        pending.tries = attempt
        pending.due = trio.current_time() + self._delay(attempt + 1)

    async def _end(self, pending: _Pending, status: webhook_events.WaitStatus, *records: NewEvent) -> None:
        wait = pending.message.position
        await self._write((*records, webhook_events.wait_ended(wait, status)))
        if status == "gave_up":
            log.warning("wait not told", wait=wait, attempts=len(self._options.schedule))
        del self._pending[wait]
