"""Following a log over SSE, through any cut: every event behind the cursor, once, in order.

Its whole state is the position of the last event handed over; after a cut it asks for what is behind that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from server.client.api import Api
from server.client.errors import ClientError, Unreachable
from server.client.sse import DONE, Frames

Event = dict[str, Any]


class Following:
    """A log being followed. `position` is that of the last event that `take` has returned from."""

    def __init__(self, api: Api, path: str, take: Callable[[Sequence[Event]], None], after: int = 0) -> None:
        self._api = api
        self._path = path
        self._take = take
        self._retry: float | None = None
        self.position = after
        self.connections = 0

    async def follow(self) -> None:
        """Until the log is closed. Raises `ClientError` when it is refused, or away for too long."""
        while True:
            try:
                if await self._read_once():
                    return
                # A stream that ended too early: the server stops, or ends streams after a while.
                cut = Unreachable(self._api.address.base, "the stream was cut")
                cut.retry_after = self._retry
                raise cut
            except ClientError as error:
                await self._api.patience.wait(error)

    async def _read_once(self) -> bool:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.position)}
        async with self._api.stream(self._path, headers) as got:
            if got.status == 204:
                self._api.patience.well()
                return True
            frames = Frames()
            self._retry = None
            while received := await got.receive():
                events: list[Event] = []
                done = False
                for frame in frames.feed(received):
                    if frame.retry_ms is not None and frame.id is not None:
                        # A refusal that passes: it gives the cursor back, says when to come again, and ends.
                        self._retry = frame.retry_ms / 1000
                    elif frame.retry_ms is not None:  # a stream: its ids come with its events
                        self.connections += 1
                        self._api.patience.well()
                    if frame.data == DONE:
                        done = True
                    elif frame.data is not None:
                        events.append(msgspec.json.decode(frame.data))
                self._hand_over(events)
                if done:
                    return True
        return False

    def _hand_over(self, events: Sequence[Event]) -> None:
        new = [event for event in events if event["position"] > self.position]
        if new:
            self._take(new)
            self.position = new[-1]["position"]
