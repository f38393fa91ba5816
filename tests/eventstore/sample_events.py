"""Appends in one line, whole streams in one call, and waits for a state with a bound. Asserts nothing itself."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import trio

from eventstore import Append, Event, EventStore, NewEvent, Subscription

BOUND = 20.0  # how long a test waits for what must happen, on a machine that others keep busy


def noted(name: object) -> NewEvent:
    """An event that says one thing."""
    return NewEvent("noted", f'{{"name":"{name}"}}')


def note(stream: str, *names: object, **options: Any) -> Append:
    """An append of one event a name."""
    return Append(stream, tuple(noted(name) for name in names), **options)


def names(events: Sequence[Event]) -> list[str]:
    """What `noted` was told, back."""
    return [event.data[len('{"name":"') : -len('"}')] for event in events]


async def whole(store: EventStore, stream: str, after: int = 0) -> list[Event]:
    """All events after a position, page by page."""
    events: list[Event] = []
    while page := (await store.read(stream, after)).events:
        events.extend(page)
        after = page[-1].position
    return events


async def take(subscription: Subscription, count: int) -> list[Event]:
    """At least `count` events of a subscription, as they come."""
    events: list[Event] = []
    with trio.fail_after(BOUND):
        while len(events) < count:
            events.extend(await subscription.next())
    return events


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Looks again and again until it holds; fails after the bound."""
    with trio.fail_after(BOUND):
        while not await holds():
            await trio.sleep(0.005)


def gapless(events: Sequence[Event], first: int = 1) -> bool:
    """Positions 1, 2, 3 …, and no `at` below the one before."""
    falls = any(later.at < earlier.at for earlier, later in pairwise(events))
    return [event.position for event in events] == list(range(first, first + len(events))) and not falls
