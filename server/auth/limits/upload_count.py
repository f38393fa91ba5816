"""Counts the bytes of one upload against the limits of the day, while they come.

What a client announces is counted before the first byte has come, and what did not come in the end is given back.
Uploads at the same time see each other, byte by byte: else each of many that announce nothing could take all that
was left when it began. What came to other servers is seen by uploads that begin a second later. It must not know
HTTP, nor what is uploaded.
"""

from collections.abc import Sequence

from server.auth.limits.limit_list import Room
from server.auth.limits.rate_limiter import RateLimiter
from server.auth.principal import Principal


class UploadCount:
    """The count of one upload. `settle` it in any case."""

    def __init__(self, limiter: RateLimiter, principal: Principal, room: Sequence[Room]) -> None:
        self._limiter = limiter
        self._principal = principal
        self._room = room
        self._counted = 0
        self._received = 0

    @classmethod
    async def begin(cls, limiter: RateLimiter, principal: Principal, announced: int) -> "UploadCount":
        """Begins an upload of so many bytes; 0 where the client does not say.

        Raises `Problem` 429 `rate_limited` where they are more than a limit leaves, or where it leaves none; and
        `StoreUnavailable`.
        """
        count = cls(limiter, principal, await limiter.upload_room(principal))
        count._reserve(max(announced, 1))
        return count

    def take(self, size: int) -> None:
        """Counts bytes that have come. Raises `Problem` 429 `rate_limited` once they are too many."""
        self._received += size
        if self._received > self._counted:
            self._reserve(self._received)

    def settle(self) -> None:
        """Gives back what was announced and did not come."""
        self._limiter.add_upload(self._principal, min(self._received, self._counted) - self._counted)
        self._counted = min(self._received, self._counted)

    def _reserve(self, size: int) -> None:
        for room in self._room:
            if size - self._counted > room.left_for_uploads:
                raise self._limiter.refusal(room.limit, room.seconds_left)
        self._limiter.add_upload(self._principal, size - self._counted)
        self._counted = size
