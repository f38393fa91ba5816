"""`Problem`: whatever a client is told went wrong, in the shape of RFC 9457, whatever the transport.

The lowest room: it knows no HTTP library and no store. `code` is for programs and never changes; `detail` is
for people and says what was wrong, which limit, and how to mend it.
"""

from collections.abc import Mapping
from typing import Any


class Problem(Exception):
    """A request that is refused. The client is to blame for 4xx, nobody or we for 5xx.

    `extra` are more fields of the JSON body (`head`, `limit`, …). `retry_after`, in seconds, marks a refusal
    that passes: the same request may succeed later.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_after: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.extra = dict(extra or {})


def not_found(what: str) -> Problem:
    """The one answer for what does not exist and for what belongs to somebody else."""
    return Problem(404, "not_found", f"There is no such {what}.")


def unavailable(detail: str, retry_after: float = 1.0) -> Problem:
    """The store does not answer, or the server is full or stopping. Passes."""
    return Problem(503, "unavailable", detail, retry_after=retry_after)
