"""All webhooks of one process: registered, driven, taken over from processes that are gone, and shown.

A webhook is made before its generation is requested: so the generation cannot end unseen. If the request never
comes, the webhook is given up. Its writer stays open until the webhook ends: by open writers the sweep of any
process finds the webhooks of a process that died. This file knows no web.
"""

import secrets
from collections.abc import Sequence

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
from server.conversations import idempotency_keys
from server.event_types import DEFAULT_TENANT
from server.observability import logs
from server.observability.metrics import Counter
from server.problem import Problem
from server.webhooks import webhook_events
from server.webhooks.delivery import NEVER_REQUESTED, Delivery, read_webhook
from server.webhooks.retry_schedule import TryPlaces, WebhookOptions
from server.webhooks.sender import Sender, describe_fault
from server.webhooks.target_address import BadTargetUrl, is_private_by_name, parse_target_url
from server.webhooks.webhook_events import CATEGORY, ENDED_ONLY, FIRST_EPOCH, Told, WebhookSnapshot, WebhookState

log = logs.get("webhooks")

KEY_SECONDS = 86_400.0
UNKNOWN_SECONDS = 60.0
"""After this time, and twice the store's patience, the request of a generation cannot be on its way any more."""
CRASH_SECONDS = 600.0
"""How long a webhook waits after a bug in this server ended its delivery: the next attempt may fail as well."""
OUTCOMES = ("delivered", "failed", "gave_up")


class Webhooks:
    """One per process. `counter` counts tries that were delivered, tries that failed, and webhooks given up.

    `unattended`: the streams of webhooks that this process has made or taken over and does not drive, though they
    may be pending. The value is the time, by trio's clock, from which on the sweep takes them over.
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
        self.options = options
        self.counter = Counter() if counter is None else counter
        self.counter.expect((outcome,) for outcome in OUTCOMES)
        self._sender = sender or Sender(
            allow_private=options.allow_private, timeout=options.timeout, ports=options.allowed_ports
        )
        self._places = TryPlaces(options)
        self._tenants: dict[str, str] = {}  # of the webhooks that are registered or driven, by their stream
        self.unattended: dict[str, float] = {}
        self._registered: set[str] = set()
        self._driven: set[str] = set()

    def __len__(self) -> int:
        """How many webhooks this process drives."""
        return len(self._driven)

    @property
    def can_deliver(self) -> bool:
        """Whether this process can drive webhooks: it has a secret, or a key, to sign with."""
        return self.options.can_sign

    def leave_to_sweep(self, generation: str) -> None:
        """Leaves a webhook to the sweep, where nobody knows whether the generation's request is in the log.

        The caller will call neither `start` nor `abandon`.
        """
        stream = webhook_events.stream_of(generation)
        self._registered.discard(stream)
        self._tenants.pop(stream, None)
        self.unattended[stream] = trio.current_time()

    def drives(self, writer: str) -> bool:
        """Whether this process drives the webhook of this writer. Then the sweep does not take it over."""
        return writer in self._driven

    def check_url(self, url: str) -> None:
        """Raises `Problem` 422 where no webhook may go to this URL. Makes no DNS query."""
        if not self.options.can_sign:
            detail = (
                "This server has nothing to sign webhooks with. Set TOKENTAPE_WEBHOOK_SECRET (whsec_ and the "
                "base64 of 24 to 64 random bytes) or TOKENTAPE_WEBHOOK_SIGNING_KEY (made by `tokentape webhooks "
                "new-key`) and start it again, or leave out webhook."
            )
            raise Problem(422, "webhooks_not_configured", detail, extra={"field": "webhook"})
        try:
            target = parse_target_url(url)
            if not self.options.allow_private and is_private_by_name(target.address.host):
                raise BadTargetUrl("leads to no public address (TOKENTAPE_WEBHOOK_ALLOW_PRIVATE would allow it)")
            if not any(target.address.port in ports for ports in self.options.allowed_ports):
                allowed = ", ".join(map(_format_ports, self.options.allowed_ports))
                why = f"goes to port {target.address.port}; allowed are {allowed}"
                raise BadTargetUrl(f"{why} (TOKENTAPE_WEBHOOK_PORTS allows others)")
        except BadTargetUrl as bad:
            detail = f"The webhook's URL {bad}."
            raise Problem(422, "invalid_webhook", detail, extra={"field": "webhook"}) from None

    def check_open(self, tenant: str) -> None:
        """Raises `Problem` 429 where this process has too many webhooks of the tenant that have not ended."""
        most = self.options.most_open
        if len(self._tenants) >= most and sum(one == tenant for one in self._tenants.values()) >= most:
            raise Problem(
                429,
                "rate_limited",
                f"This tenant has {most} webhooks that wait for the end of a generation or for their receiver: "
                "the most. Come back when some of them have ended.",
                retry_after=60,
                extra={"limit": "tenant.webhooks", "value": str(most), "retry_after": 60},
            )

    async def register(
        self,
        generation: str,
        conversation: str,
        url: str,
        tenant: str = DEFAULT_TENANT,
        events: Sequence[Told] = ENDED_ONLY,
    ) -> None:
        """Makes the webhook, durably. `tenant`: of the conversation; `events`: what the receiver is told of.

        Call it before the generation is requested; then call `start` or `abandon`.
        A second call for the same generation does nothing. Raises `Problem` as `check_url` does, and
        `StoreUnavailable`: nobody knows whether the webhook was made, and the sweep will find out.
        """
        self.check_url(url)
        self.check_open(tenant)
        stream = webhook_events.stream_of(generation)
        append = Append(
            stream,
            (webhook_events.requested(generation, conversation, url, tenant, events),),
            NO_STREAM,
            Writer(stream, FIRST_EPOCH, 1),
            # A random digest: only a repetition of this very append, whose answer got lost, has the same one.
            keys=(
                Key(
                    idempotency_keys.WEBHOOK,
                    generation,
                    secrets.token_bytes(16),
                    idempotency_keys.WEBHOOK_KEY_SECONDS,
                ),
            ),
            category=CATEGORY,
        )
        try:
            await self._store.append(append)
        except (KeyReused, Fenced, WrongExpectedPosition):
            return
        except StoreUnavailable:
            self.leave_to_sweep(generation)
            raise
        self._registered.add(stream)
        self._tenants[stream] = tenant

    def start(self, generation: str) -> None:
        """Drives the webhook, if this process has made it. The generation's request is in the log now."""
        stream = webhook_events.stream_of(generation)
        if stream in self._registered:
            self._registered.discard(stream)
            self._drive(stream, FIRST_EPOCH, self._tenants.get(stream, DEFAULT_TENANT))

    async def abandon(self, generation: str) -> None:
        """Gives up a webhook of this process whose generation was refused.

        That cannot be undone, so it first looks whether the generation was requested after all; then it does what
        `start` does. Raises no error.
        """
        stream = webhook_events.stream_of(generation)
        if stream not in self._registered:
            return
        try:
            if await self._store.find_key(idempotency_keys.GENERATION, generation) is not None:
                self.start(generation)
                return
            self._registered.discard(stream)
            self._tenants.pop(stream, None)
            await self._store.append(self._closing(stream, Writer(stream, FIRST_EPOCH, 2)))
        except Fenced:
            pass  # another process has taken it over
        except StoreUnavailable:
            self.leave_to_sweep(generation)
        else:
            self.counter.add("gave_up")

    async def take_over(self, open_writer: OpenWriter) -> bool:
        """Takes over a webhook that nobody drives. True: this process drives it now, or has given it up.

        Any number of processes may call this at the same time: one of them wins. Raises `StoreUnavailable`: the
        sweep calls again.
        """
        stream = open_writer.stream
        if not self.can_deliver:
            return False
        webhook = await read_webhook(self._store, stream)
        if webhook is None or webhook.status != "pending":
            return False
        known = await self._store.find_key(idempotency_keys.GENERATION, webhook.generation) is not None
        if not known and await self._age(webhook) < max(UNKNOWN_SECONDS, 2 * self._store.options.call_timeout):
            return False
        epoch = open_writer.epoch + 1
        writer = Writer(stream, epoch, 1)
        # 1. Two processes claim the same epoch with the same sequence number. 2. The store takes the second append
        # for a repetition of the first, and tells both that they have it. The key, with its random digest, lets
        # one of them win.
        key = Key(
            idempotency_keys.WEBHOOK_TAKEOVER,
            f"{stream}/{epoch}",
            secrets.token_bytes(16),
            idempotency_keys.WEBHOOK_KEY_SECONDS,
        )
        if stream in self._driven:  # another task of this process took it over during the reads above
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
            self.unattended[stream] = trio.current_time()  # the append may have succeeded
            raise
        finally:
            self._driven.discard(stream)
        self._registered.discard(stream)
        self._tenants.pop(stream, None)
        if known:
            log.info("webhook taken over", generation=webhook.generation, owner=open_writer.owner)
            self._drive(stream, epoch, webhook.tenant)
        else:
            self.counter.add("gave_up")
            log.warning("webhook given up", generation=webhook.generation, why=NEVER_REQUESTED)
        return True

    async def snapshot(self, generation: str) -> WebhookSnapshot | None:
        """What clients are shown of a generation's webhook; None: it has none. Raises `StoreUnavailable`."""
        webhook = await read_webhook(self._store, webhook_events.stream_of(generation))
        return webhook.snapshot() if webhook is not None else None

    def _closing(self, stream: str, writer: Writer, *keys: Key) -> Append:
        events: tuple[NewEvent, ...] = (webhook_events.gave_up(0, NEVER_REQUESTED),)
        return Append(stream, events, writer=writer, closes=stream, keys=keys)

    async def _age(self, webhook: WebhookState) -> float:
        return (await self._store.clock() - webhook.newest_at).total_seconds()

    def _drive(self, stream: str, epoch: int, tenant: str) -> None:
        if stream not in self._driven:
            self._tenants[stream] = tenant
            self._driven.add(stream)
            self._nursery.start_soon(self._deliver, stream, epoch)

    async def _deliver(self, stream: str, epoch: int) -> None:
        logs.bind(webhook=stream)
        try:
            await Delivery(
                self._store, self._sender, self.options, self._places, self.counter, stream, epoch
            ).run()
        except Fenced:
            pass  # another process goes on with it
        except Exception as failure:
            log.error("webhook crashed", again_in_seconds=CRASH_SECONDS, **describe_fault(failure))
            self.unattended[stream] = trio.current_time() + CRASH_SECONDS
        self._driven.discard(stream)
        self._tenants.pop(stream, None)


def _format_ports(ports: range) -> str:
    return str(ports[0]) if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"
