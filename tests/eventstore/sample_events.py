"""Short builders of appends, readers of whole streams, and waits for a state within a time limit."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import trio

from eventstore import Append, Event, EventStore, NewEvent, Subscription

BOUND = 20.0  # how long a test waits for what must happen, on a machine that others keep busy


def sample_event(name: object) -> NewEvent:
    """A new event that carries one name."""
    return NewEvent("noted", f'{{"name":"{name}"}}')


def sample_append(stream: str, *names: object, **options: Any) -> Append:
    """An append of one event for each name."""
    return Append(stream, tuple(sample_event(name) for name in names), **options)


def names(events: Sequence[Event]) -> list[str]:
    """The names that the events carry."""
    return [event.data[len('{"name":"') : -len('"}')] for event in events]


@contextmanager
def case(row: object) -> Iterator[None]:
    """Adds the failing row of a test's table to the error."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"row: {row}")
        raise


async def read_all(store: EventStore, stream: str, after: int = 0) -> list[Event]:
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


async def wait_until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until the condition holds, and fails after a time limit."""
    with trio.fail_after(BOUND):
        while not await holds():
            await trio.sleep(0.005)


def is_gapless(events: Sequence[Event], first: int = 1) -> bool:
    """Whether the positions are 1, 2, 3 and so on, and no `at` is before the one in front."""
    falls = any(later.at < earlier.at for earlier, later in pairwise(events))
    return [event.position for event in events] == list(range(first, first + len(events))) and not falls
