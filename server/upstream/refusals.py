"""What a response other than 200, or an error told with a 200, means in the words of `errors.CODES`.

Owns the translation of HTTP status and headers (RFC 9110 sections 10.2.3 and 15) and of error objects into an
`UpstreamError`, the same for every provider; and what is an error object, for providers have many names for it.
Pure: must not know sockets; the wall clock is an argument.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import UpstreamError
from .wording import Quoter, error_text, message_in

__all__ = ["error_in", "refusal", "retry_after", "stream_error"]

_CODES = {
    401: "upstream_unauthorized",
    403: "upstream_unauthorized",
    407: "upstream_unavailable",  # a proxy's; it wants another user or password
    408: "upstream_timeout",
    409: "upstream_unavailable",  # a lock at the provider; its own SDK asks again
    429: "upstream_rate_limited",
}
_PASSING = frozenset({408, 409, 425, 429})
# Said with a 429 for an empty account or a month's limit, too; waiting does not fill it. The letters alone.
_SPENT_CODES = ("insufficientquota", "insufficientbalance", "enforcedspendlimit", "arrearage")
# These count in a code or a type alone: in the sentence of a limit that passes, they say how to have a higher one.
_SPENT = (*_SPENT_CODES, "exceededcurrentquota", "billing")
# What the words of an error object would have been as a status; the first that is found in one counts.
_STATUS_OF: tuple[tuple[str, int], ...] = (
    *((word, 429) for word in _SPENT),
    ("throttl", 429),
    ("ratelimit", 429),
    ("toomanyrequests", 429),
    ("resourceexhausted", 429),
    ("authentication", 401),
    ("unauthorized", 401),
    ("unauthenticated", 401),
    ("apikey", 401),
    ("permission", 403),
    ("forbidden", 403),
    ("accessdenied", 403),
    ("notfound", 404),
    ("requesttoolarge", 413),
    ("invalidrequest", 400),
    ("badrequest", 400),
    ("invalidargument", 400),
    ("invalidparameter", 400),
    ("contextlength", 400),
    ("contextsize", 400),
    ("contextwindow", 400),
    ("contentfilter", 400),
    ("datainspection", 400),  # DashScope's filter
    ("validation", 422),
    ("extraforbidden", 422),
    ("overloaded", 529),
    ("unavailable", 503),
    ("busy", 503),
    ("timeout", 504),
    ("deadlineexceeded", 504),
    ("servererror", 500),
    ("apierror", 500),
    ("internal", 500),
)
_NUMBERS = ("code", "status_code", "status", "statusCode", "http_code", "error_code")
_WORDS = ("type", "code", "status", "error_type", "error_code")
_NO_LETTER = re.compile(r"[^a-z0-9]+")
_ALL_WELL = (None, 0, 200, "", "0", "200", "ok", "OK", "success", "Success")


def refusal(status: int, headers: Mapping[str, str], body: bytes, quote: Quoter, now: float) -> UpstreamError:
    """The error for a response whose `status` is not 200. `body`: its first bytes; `now`: Unix time in seconds."""
    text = error_text(body)
    said = quote(text) or "no explanation"
    detail = quote.withheld(text)
    if 300 <= status < 400:
        # Not followed: it would carry the key to wherever the answer says.
        message = f"the provider answered {status}, a redirect; set the base URL to where it really is"
        detail = f"a redirect to {quote.private(headers.get('location', 'nowhere'))}"
        return UpstreamError("upstream_bad_request", message, detail=detail)
    if status < 300:
        message = f"the provider answered {status} instead of a stream: {said}"
        return UpstreamError("upstream_malformed", message, detail=detail)
    final = status == 407 or (status == 429 and _is_spent(body))
    return UpstreamError(
        _code(status),
        f"the provider answered {status}: {said}",
        detail=detail,
        retryable=False if final else None,
        retry_after=retry_after(headers, now),
    )


def error_in(value: Any) -> Any | None:
    """The error that a JSON value of a stream tells of, which is no chunk; None if it tells of none."""
    if isinstance(value, list):  # Gemini's shape
        return next((found for each in value if isinstance(each, dict) and (found := error_in(each))), None)
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if error:
        return error if isinstance(error, dict | str | list) else value
    state = value.get("base_resp")  # MiniMax has it in every chunk
    if isinstance(state, dict) and state.get("status_code") not in _ALL_WELL:
        return {**state, "code": state.get("status_code")}
    if value.get("object") == "error" or value.get("type") == "error" or value.get("error_type"):
        return value
    if any(isinstance(name, str) and name.lower().startswith("error") and value[name] for name in value):
        return value
    if value.get("choices"):
        return None
    if isinstance(value.get("message"), str) and value.get("code") not in _ALL_WELL:
        return value  # DashScope
    return value if value.get("detail") else None  # FastAPI


def stream_error(error: Any, quote: Quoter, *, whole: bool = False) -> UpstreamError:
    """The error for an error object that came with a 200; it says by code, status or type whether it may pass.

    `whole`: it is all that came, in place of an answer; then it is what it would have been with its status.
    """
    text = message_in(error) or _as_text(error)
    said, detail = quote(text), quote.withheld(text)
    status, spent = _status(error)
    final = spent or (status is not None and 400 <= status < 500 and status not in _PASSING)
    if whole and status is not None:
        message = f"the provider answered 200 with an error: {said}"
        return UpstreamError(_code(status), message, detail=detail, retryable=not final)
    return UpstreamError(
        "upstream_error", f"the provider stopped the answer: {said}", detail=detail, retryable=not final
    )


def _is_spent(body: bytes) -> bool:
    text = body.decode(errors="replace")
    letters = _letters(text)
    if any(code in letters for code in _SPENT_CODES):
        return True
    try:
        return _status(json.loads(text))[1]
    except (ValueError, RecursionError):
        return False


def _as_text(error: Any) -> str:
    try:
        return error if isinstance(error, str) else json.dumps(error)
    except RecursionError:
        return "an error that is nested too deeply to be told"


def _code(status: int) -> str:
    return _CODES.get(status, "upstream_unavailable" if status >= 500 else "upstream_bad_request")


def _status(error: Any) -> tuple[int | None, bool]:
    """The status that an error object tells by number or by words, None for neither; and whether money is gone."""
    letters = [_letters(word) for word in _told(error, _WORDS) if isinstance(word, str)]
    spent = any(word in each for each in letters for word in _SPENT)
    for number in _told(error, _NUMBERS):
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) == 3:
            number = int(number)
        if type(number) is int and 400 <= number < 600:
            return number, spent
    for word, status in _STATUS_OF:
        if any(word in each for each in letters):
            return status, spent
    return None, spent


def _told(error: Any, names: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(error, dict):
        for holder in (error, error.get("error"), error.get("metadata")):  # OpenRouter's `metadata.error_type`
            if isinstance(holder, dict):
                yield from (holder[name] for name in names if name in holder)
    elif isinstance(error, list):
        for each in error:
            yield from _told(each, names) if isinstance(each, dict) else ()


def _letters(text: str) -> str:
    return _NO_LETTER.sub("", text.lower())


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: `retry-after-ms` (OpenAI), else `Retry-After` in seconds or as an HTTP-date, else None."""
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return exact / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, at - now)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
