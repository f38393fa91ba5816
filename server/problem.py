"""`Problem`: a request that is refused, with the fields of a problem document (RFC 9457), on every transport.

`code` is for programs and never changes. `detail` is for people: it says what was wrong, which limit was met, and
how to mend the request. This file knows no HTTP library and no store.
"""

from collections.abc import Mapping
from typing import Any


class Problem(Exception):
    """A request that is refused. The client is to blame for a `status` of 4xx, the server or nobody for 5xx.

    `retry_after`: in seconds; given where the same request may succeed later. `extra`: more fields of the JSON
    body, such as `head` or `limit`.
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
    """A 404. The same for what does not exist and for what belongs to somebody else, so that nobody can tell."""
    return Problem(404, "not_found", f"There is no such {what}.")


def unavailable(detail: str, retry_after: float = 1.0) -> Problem:
    """A 503 that passes: the store does not answer, or the server is full or stopping. `retry_after`: seconds."""
    return Problem(503, "unavailable", detail, retry_after=retry_after)
