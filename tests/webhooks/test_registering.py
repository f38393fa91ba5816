"""Registering, starting and abandoning a webhook: what is refused, and what is shown before the end."""

import json

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from server.webhooks import WebhookOptions
from server.webhooks.delivery import NEVER_REQUESTED
from server.webhooks.retry_schedule import SCHEDULE
from server.webhooks.target_address import parse_ports
from tests.generations.unreliable_logs import Forgetful, events_of

from .receiver import Receiver
from .webhook_process import (
    CONVERSATION,
    GENERATION,
    HOOK,
    OPTIONS,
    PATH_SECRET,
    PLAIN_URL,
    PUBLIC,
    URL,
    Process,
    process,
)


def refused(here: Process, url: str) -> Problem:
    """How `check` refuses it, in all that a client would see of it."""
    with pytest.raises(Problem) as caught:
        here.webhooks.check_url(url)
    problem = caught.value
    assert problem.status == 422
    assert problem.extra == {"field": "webhook"}
    assert PATH_SECRET not in str(problem)
    return problem


async def test_valid_urls_are_accepted() -> None:
    async with process(MemoryBackend().process()) as here:
        for url in (URL, PLAIN_URL, "http://hooks.example", "https://[2606:4700::1]:8443/?q"):
            here.webhooks.check_url(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"ftp://hooks.example/{PATH_SECRET}", "has to begin with http:// or https://"),
        (f"https://me:{PATH_SECRET}@hooks.example/", "no user and no password"),
        (f"https://hooks.example/#{PATH_SECRET}", "no fragment"),
        (f"https://hooks.example/{PATH_SECRET * 300}", "longer than 2000"),
        (f"https:///{PATH_SECRET}", "no valid host"),
        *(
            (f"http://{host}/{PATH_SECRET}", "WEBHOOK_ALLOW_PRIVATE")
            for host in ("127.0.0.1:80", "127.1", "[::1]")
        ),
        *(
            (f"http://{host}/{PATH_SECRET}", "no public address")
            for host in ("10.0.0.1", "localhost", "a.localhost")
        ),
        (f"http://[::ffff:127.0.0.1]/{PATH_SECRET}", "no public address"),
        (f"http://169.254.169.254/{PATH_SECRET}", "no public address"),
    ],
)
async def test_invalid_urls_are_refused(url: str, why: str) -> None:
    async with process(MemoryBackend().process()) as here:
        problem = refused(here, url)
        assert problem.code == "invalid_webhook"
        assert why in problem.detail
        with pytest.raises(Problem):
            await here.webhooks.register(GENERATION, CONVERSATION, url)
        assert await here.webhooks.snapshot(GENERATION) is None


async def test_private_addresses_are_accepted_where_allowed() -> None:
    options = WebhookOptions(secret=OPTIONS.secret, allow_private=True)
    async with process(MemoryBackend().process(), options=options) as here:
        here.webhooks.check_url("http://127.0.0.1:9/x")
        here.webhooks.check_url("http://localhost:9/x")
        assert refused(here, "http://localhost/#x").code == "invalid_webhook"


@pytest.mark.parametrize(
    ("options", "ports", "others"),
    [
        (WebhookOptions(OPTIONS.secret), (80, 443, 8080, 8443), (25, 22, 6379, 8000, 8081, 65_535)),
        (WebhookOptions(OPTIONS.secret, ports=parse_ports(["444", "8000-8002"])), (444, 8000, 8002), (443, 8003)),
        (WebhookOptions(OPTIONS.secret, allow_private=True), (1, 25, 8002, 65_535), ()),
        (WebhookOptions(OPTIONS.secret, True, parse_ports(["443"])), (443,), (25, 80)),
    ],
)
async def test_allowed_ports(options: WebhookOptions, ports: tuple[int, ...], others: tuple[int, ...]) -> None:
    """The usual ones, unless the operator says otherwise; a refusal names the setting."""
    async with process(MemoryBackend().process(), options=options) as here:
        for port in ports:
            here.webhooks.check_url(f"http://{PUBLIC}:{port}/x")
        for port in others:
            problem = refused(here, f"http://{PUBLIC}:{port}/{PATH_SECRET}")
            assert problem.code == "invalid_webhook"
            assert f"port {port}" in problem.detail
            assert "TOKENTAPE_WEBHOOK_PORTS" in problem.detail
        if options.ports == (range(444, 445), range(8000, 8003)):
            assert "to port 443; allowed are 444, 8000-8002 (" in refused(here, "https://hooks.example/").detail


async def test_webhooks_without_a_secret_are_refused() -> None:
    async with process(MemoryBackend().process(), options=WebhookOptions()) as here:
        for url in (URL, "nonsense"):
            problem = refused(here, url)
            assert problem.code == "webhooks_not_configured"
            assert "TOKENTAPE_WEBHOOK_SECRET" in problem.detail


def test_retry_schedule_is_that_of_standard_webhooks() -> None:
    minute, hour = 60, 3600
    assert list(SCHEDULE) == [0, 5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour]
    assert WebhookOptions().timeout == 15


async def test_snapshot_before_the_end() -> None:
    """Scheme, host and port; the path may hold a secret."""
    async with process(MemoryBackend().process()) as here:
        assert await here.webhooks.snapshot(GENERATION) is None
        await here.webhooks.register(GENERATION, CONVERSATION, URL)
        found = await here.webhooks.snapshot(GENERATION)
    assert found is not None
    assert (found.status, found.url, found.reason, found.tries) == ("pending", "https://hooks.example", None, [])


async def test_repeated_registration_changes_nothing(autojump_clock: MockClock) -> None:
    """As a request does that is decided again, because the conversation moved in between."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        assert len(events_of(log, HOOK)) == 1
        await here.request()
        here.webhooks.start(GENERATION)
        here.webhooks.start(GENERATION)
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        here.webhooks.start(GENERATION)
        await here.end()
        await here.ended()
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        here.webhooks.start(GENERATION)
        await trio.sleep(100)
    assert len(receiver.posts) == 1
    assert len(events_of(log, HOOK)) == 3


async def test_start_without_registration_does_nothing(autojump_clock: MockClock) -> None:
    """A request that is repeated on another process: the webhook is that of the first."""
    log = MemoryBackend()
    async with (
        Receiver().in_memory() as receiver,
        process(log.process(), receiver.connect) as first,
        process(log.process(), receiver.connect) as second,
    ):
        await first.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await second.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await first.request()
        second.webhooks.start(GENERATION)
        await second.webhooks.abandon(GENERATION)
        assert len(second.webhooks) == 0
        await first.end()
        await trio.sleep(100)
        assert receiver.posts == []
        first.webhooks.start(GENERATION)
        assert first.webhooks.drives(HOOK)
        assert (await first.ended()).status == "delivered"
        assert not first.webhooks.drives(HOOK)
    assert len(receiver.posts) == 1


async def test_generation_without_a_webhook_has_no_snapshot(autojump_clock: MockClock) -> None:
    async with process(MemoryBackend().process()) as here:
        await here.request()
        here.webhooks.start(GENERATION)
        await here.webhooks.abandon(GENERATION)
        await here.end()
        await trio.sleep(1)
        assert await here.webhooks.snapshot(GENERATION) is None


async def test_abandoned_webhook_is_closed(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.webhooks.abandon(GENERATION)
        await here.webhooks.abandon(GENERATION)
        here.webhooks.start(GENERATION)
        found = await here.ended()
        assert (found.status, found.reason) == ("gave_up", NEVER_REQUESTED)
        assert await here.has_no_open_hook()
        assert len(here.webhooks) == 0
    assert json.loads(events_of(log, HOOK)[-1].data) == {"attempts": 0, "reason": NEVER_REQUESTED}
    assert len(events_of(log, HOOK)) == 2
    assert here.webhooks.counter.counts[("gave_up",)] == 1


async def test_webhook_of_a_requested_generation_is_not_abandoned(autojump_clock: MockClock) -> None:
    """Its request's commit became known too late for whoever made it."""
    async with Receiver().in_memory() as receiver, process(MemoryBackend().process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        await here.webhooks.abandon(GENERATION)
        await here.end()
        assert (await here.ended()).status == "delivered"


async def test_abandoning_during_an_outage_is_no_error(autojump_clock: MockClock) -> None:
    """Whoever does it is about to answer something else. The sweep finds what is left."""
    log = MemoryBackend()
    async with process(log.process(), patience=1.0) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        log.available = False
        await here.webhooks.abandon(GENERATION)
        log.available = True
        left = await here.open_writer()
        assert not here.webhooks.drives(left.name)
        await trio.sleep(61)
        assert await here.webhooks.take_over(left)
        assert (await here.ended()).reason == NEVER_REQUESTED


async def test_registration_with_an_unknown_outcome(autojump_clock: MockClock) -> None:
    """It is told as such; and what came of it is found, and ended, later."""
    log = MemoryBackend()
    forgetful = Forgetful(log.process())
    forgetful.losing = 1_000
    async with process(forgetful, patience=1.0) as here:
        with pytest.raises(StoreUnavailable):
            await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        forgetful.losing = 0
        left = await here.open_writer()
        await trio.sleep(61)
        assert await here.webhooks.take_over(left)
        assert (await here.ended()).reason == NEVER_REQUESTED


async def test_webhook_stream_is_not_a_conversation() -> None:
    """Its URL may hold a secret: nothing that lists or reads conversations comes by it."""
    async with process(MemoryBackend().process()) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        assert await here.store.list_streams("conversation", None, 10) == []
        (row,) = await here.store.list_streams("webhook", None, 10)
        assert row.name == HOOK
