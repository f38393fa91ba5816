"""All webhooks of one process: taken on, driven, taken over from processes that are gone, and shown.

A webhook is made before its generation is requested, so that no end is ever missed; one whose generation never
comes is given up. Its open writer is how any process finds it after its own has died. It knows no web.
"""

import secrets

import trio

from eventstore import (
    NO_STREAM,
    Append,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    NewEvent,
    OpenWriter,
    StoreUnavailable,
    Writer,
    WrongExpectedPosition,
)
from server import logs
from server.errors import Problem
from server.events import GENERATION_SCOPE
from server.metrics.counting import Counter
from server.webhooks import webhook_events
from server.webhooks.delivery import NEVER_REQUESTED, Delivery, read_hook
from server.webhooks.options import WebhookOptions
from server.webhooks.sender import Sender, described
from server.webhooks.target import BadTarget, is_private_by_name, parse_target
from server.webhooks.webhook_events import CATEGORY, FIRST_EPOCH, TAKEOVER_SCOPE, Hook, WebhookSnapshot

log = logs.get("webhooks")

KEY_SECONDS = 86_400.0
UNKNOWN_SECONDS = 60.0
"""A generation that nobody has requested for so long, and for twice the store's patience, is not on its way."""
CRASH_SECONDS = 600.0
"""After a fault of ours a webhook is left alone for so long: it may fail in the same way."""
OUTCOMES = ("delivered", "failed", "gave_up")


class Webhooks:
    """One per process. `counter` counts tries that were taken and that failed, and webhooks given up.

    `left` are those of this process that it does not drive though they may be pending, by stream; with the time,
    by trio's clock, from which on the sweep sees to them.
    """

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        options: WebhookOptions,
        counter: Counter | None = None,
        sender: Sender | None = None,
    ) -> None:
        self._store = store
        self._nursery = nursery
        self._options = options
        self.counter = counter or Counter()
        self.counter.expect((outcome,) for outcome in OUTCOMES)
        self._sender = sender or Sender(
            allow_private=options.allow_private, timeout=options.timeout, ports=options.allowed_ports
        )
        self._limiter = trio.CapacityLimiter(options.most_at_once)
        self.left: dict[str, float] = {}
        self._registered: set[str] = set()
        self._driven: set[str] = set()

    def __len__(self) -> int:
        """How many this process drives."""
        return len(self._driven)

    @property
    def able(self) -> bool:
        """Whether this process can drive webhooks at all: it has a secret to sign with."""
        return self._options.secret is not None

    def leave(self, generation: str) -> None:
        """Whether the generation's request is in the log is not known: neither `start` nor `abandon` will come."""
        stream = webhook_events.stream_of(generation)
        self._registered.discard(stream)
        self.left[stream] = trio.current_time()

    def drives(self, writer: str) -> bool:
        """Whether this process is at work on the webhook of this writer; the sweep leaves it alone then."""
        return writer in self._driven

    def check(self, url: str) -> None:
        """Raises `Problem` 422 where no webhook can go there. Asks nobody, not even for the name's addresses."""
        if self._options.secret is None:
            detail = (
                "This server has no secret to sign webhooks with. Set TOKENTAPE_WEBHOOK_SECRET (whsec_ and the "
                "base64 of 24 to 64 random bytes) and start it again, or leave out webhook."
            )
            raise Problem(422, "webhooks_not_configured", detail, extra={"field": "webhook"})
        try:
            target = parse_target(url)
            if not self._options.allow_private and is_private_by_name(target.address.host):
                raise BadTarget("leads to no public address (TOKENTAPE_WEBHOOK_ALLOW_PRIVATE would allow it)")
            if not any(target.address.port in ports for ports in self._options.allowed_ports):
                allowed = ", ".join(map(_written, self._options.allowed_ports))
                why = f"goes to port {target.address.port}; allowed are {allowed}"
                raise BadTarget(f"{why} (TOKENTAPE_WEBHOOK_PORTS allows others)")
        except BadTarget as bad:
            detail = f"The webhook's URL {bad}."
            raise Problem(422, "invalid_webhook", detail, extra={"field": "webhook"}) from None

    async def register(self, generation: str, conversation: str, url: str) -> None:
        """Makes the webhook, durably. Before the generation is requested; then comes `start`, or `abandon`.

        Again for the same generation it does nothing. Raises `Problem` as `check`, and `StoreUnavailable`: whether
        it was made is not known, and the sweep sees to it.
        """
        self.check(url)
        stream = webhook_events.stream_of(generation)
        append = Append(
            stream,
            (webhook_events.requested(generation, conversation, url),),
            NO_STREAM,
            Writer(stream, FIRST_EPOCH, 1),
            # A digest of its own: a repetition is then this very call's, whose answer got lost, and nobody else's.
            keys=(Key(CATEGORY, generation, secrets.token_bytes(16), KEY_SECONDS),),
            category=CATEGORY,
        )
        try:
            await self._store.append(append)
        except (KeyReused, Fenced, WrongExpectedPosition):
            return
        except StoreUnavailable:
            self.leave(generation)
            raise
        self._registered.add(stream)

    def start(self, generation: str) -> None:
        """Drives the webhook, if this process has made it. Its generation's request is in the log."""
        stream = webhook_events.stream_of(generation)
        if stream in self._registered:
            self._registered.discard(stream)
            self._drive(stream, FIRST_EPOCH)

    async def abandon(self, generation: str) -> None:
        """Gives up a webhook of this process whose generation was refused; for good, so not before asking again.

        Raises nothing. Should the generation have been requested after all, it is as `start`.
        """
        stream = webhook_events.stream_of(generation)
        if stream not in self._registered:
            return
        try:
            if await self._store.find_key(GENERATION_SCOPE, generation) is not None:
                self.start(generation)
                return
            self._registered.discard(stream)
            await self._store.append(self._closing(stream, Writer(stream, FIRST_EPOCH, 2)))
        except Fenced:
            pass  # it is somebody's already
        except StoreUnavailable:
            self.leave(generation)
        else:
            self.counter.add("gave_up")

    async def take_over(self, open_writer: OpenWriter) -> bool:
        """Goes on with a webhook that nobody drives; True if this process does so now, or has ended it.

        Any number of processes may try at once: one wins. Raises `StoreUnavailable`; call again then.
        """
        stream = open_writer.stream
        if self._options.secret is None:
            return False
        hook = await read_hook(self._store, stream)
        if hook is None or hook.status != "pending":
            return False
        known = await self._store.find_key(GENERATION_SCOPE, hook.generation) is not None
        if not known and await self._age(hook) < max(UNKNOWN_SECONDS, 2 * self._store.options.patience):
            return False
        epoch = open_writer.epoch + 1
        writer = Writer(stream, epoch, 1)
        # Two that claim one epoch with one sequence would both be told that they have it: the key says who has.
        key = Key(TAKEOVER_SCOPE, f"{stream}/{epoch}", secrets.token_bytes(16), KEY_SECONDS)
        if stream in self._driven:  # meanwhile
            return False
        self._driven.add(stream)
        try:
            if known:
                await self._store.append(
                    Append(stream, (webhook_events.taken_over(epoch),), writer=writer, keys=(key,))
                )
            else:
                await self._store.append(self._closing(stream, writer, key))
        except (KeyReused, Fenced):
            return False
        except StoreUnavailable:
            self.left[stream] = trio.current_time()  # it may be ours now
            raise
        finally:
            self._driven.discard(stream)
        self._registered.discard(stream)
        if known:
            log.info("webhook taken over", generation=hook.generation, owner=open_writer.owner)
            self._drive(stream, epoch)
        else:
            self.counter.add("gave_up")
            log.warning("webhook given up", generation=hook.generation, why=NEVER_REQUESTED)
        return True

    async def tries(self, generation: str) -> WebhookSnapshot | None:
        """How the generation's webhook stands; None if there is none. Raises `StoreUnavailable`."""
        hook = await read_hook(self._store, webhook_events.stream_of(generation))
        return hook.snapshot() if hook is not None else None

    def _closing(self, stream: str, writer: Writer, *keys: Key) -> Append:
        events: tuple[NewEvent, ...] = (webhook_events.gave_up(0, NEVER_REQUESTED),)
        return Append(stream, events, writer=writer, closes=stream, keys=keys)

    async def _age(self, hook: Hook) -> float:
        return (await self._store.clock() - hook.newest_at).total_seconds()

    def _drive(self, stream: str, epoch: int) -> None:
        if stream not in self._driven:
            self._driven.add(stream)
            self._nursery.start_soon(self._deliver, stream, epoch)

    async def _deliver(self, stream: str, epoch: int) -> None:
        logs.bind(webhook=stream)
        try:
            await Delivery(
                self._store, self._sender, self._options, self._limiter, self.counter, stream, epoch
            ).run()
        except Fenced:
            pass  # another process goes on with it
        except Exception as failure:
            log.error("webhook crashed", again_in_seconds=CRASH_SECONDS, **described(failure))
            self.left[stream] = trio.current_time() + CRASH_SECONDS
        self._driven.discard(stream)


def _written(ports: range) -> str:
    return str(ports[0]) if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"
