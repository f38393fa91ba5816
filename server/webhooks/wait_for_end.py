"""Waits in a conversation's log for the end of one generation.

It reads the log like any reader, in the pace of its own: an end that is heard of a moment later costs nobody
anything, a task that wakes at every token does.
"""

from functools import partial

import trio

from eventstore import Erased, Event, EventStore, Place, StoreUnavailable, StreamUnknown, Trimmed
from server.events import TERMINAL
from server.store_retry import RETRY_SECONDS, insist


async def find_end(store: EventStore, place: Place, generation: str, pause: float) -> Event | None:
    """The generation's terminal event; `place` is where it was requested. None if retention has taken it.

    Waits as long as that takes, outages of the store included.
    """
    after = place.last
    bound: int | None = None  # the end stands at or before this position, if it is there at all
    while True:
        try:
            with store.subscribe(place.stream, after) as subscription:
                while bound is None or after < bound:
                    found = await subscription.next()
                    for event in found:
                        if event.tag == generation and event.type in TERMINAL:
                            return event
                    after = subscription.position
                    if len(found) < store.options.read_limit:
                        await trio.sleep(pause)
            return None
        except Trimmed as trimmed:
            after = trimmed.earliest - 1
            bound = await insist(partial(_bound, store, place.stream, generation))
        except (StreamUnknown, Erased):
            return None
        except StoreUnavailable:
            await trio.sleep(RETRY_SECONDS)


async def _bound(store: EventStore, conversation: str, generation: str) -> int | None:
    """Where the log ends, once the generation is over; None while it is not."""
    writer = await store.writer(conversation, generation)
    if writer is not None and not writer.closed:
        return None
    try:
        return (await store.head(conversation)).position  # read after the writer: no end comes behind it
    except (StreamUnknown, Erased):
        return 0
