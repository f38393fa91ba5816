"""Maps every failure of a request to an `UpstreamError` and a code of `CODES`, the same for every provider.

Owns the mapping of failed requests, of HTTP status and headers (RFC 9110 sections 10.2.3 and 15), and of error
objects inside a stream; and the recognition of error objects, for which providers have many shapes. Pure: must not
know sockets; the wall clock is an argument.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from server.http_client import errors as http
from server.providers.interface import UpstreamError

from .redaction import Redactor, error_message, find_message

__all__ = ["find_error", "request_error", "response_error", "retry_after", "stream_error"]

_CODES = {
    401: "upstream_unauthorized",
    403: "upstream_unauthorized",
    407: "upstream_unavailable",  # from a proxy that wants another user or password
    408: "upstream_timeout",
    409: "upstream_unavailable",  # a lock at the provider; its own SDK retries
    429: "upstream_rate_limited",
}
_TEMPORARY_STATUSES = frozenset({408, 409, 425, 429})
# Codes that come with a 429 for an empty account or a monthly limit, which waiting does not refill. Letters only.
_USED_UP_CODES = ("insufficientquota", "insufficientbalance", "enforcedspendlimit", "arrearage")
# These words count only in a code or a type: the message of a temporary limit uses them to sell a higher one.
_USED_UP = (*_USED_UP_CODES, "exceededcurrentquota", "billing")
# The HTTP status that corresponds to a word in an error object; the first match counts.
_STATUS_BY_WORD: tuple[tuple[str, int], ...] = (
    *((word, 429) for word in _USED_UP),
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
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
_NO_ERROR = (None, 0, 200, "", "0", "200", "ok", "OK", "success", "Success")


def request_error(error: http.HttpClientError) -> UpstreamError:
    """The error for a request without a whole response: connection, proxy, TLS or a time limit failed it."""
    code, message, stall, retryable = "upstream_timeout", str(error), False, None
    match error:
        case http.ConnectTimeout():
            message = f"accepting the connection took over {error.seconds:g} s"
        case http.SendTimeout():
            message = f"the provider: taking the request took over {error.seconds:g} s"
        case http.ResponseTimeout():
            message, stall = f"the provider: beginning to answer took over {error.seconds:g} s", True
        case http.ReadTimeout():
            code, message, stall = "upstream_stalled", f"the provider sent nothing for {error.seconds:g} s", True
        case http.ConnectionCut(reset=True):
            code, message = "upstream_cut", "the provider broke the connection"
        case http.ConnectionCut():
            code, message = "upstream_cut", "the provider closed the connection too early"
        case http.MalformedResponse():
            code, message = "upstream_malformed", f"the provider {error.what}"
        case http.TunnelError():
            code = "upstream_malformed"
        case http.ProxyError():
            code, retryable = "upstream_unavailable", error.temporary
        case http.CertificateError():  # it will not be renewed between two attempts
            code, message, retryable = "upstream_unavailable", "the provider's certificate is not valid", False
        case _:
            code, message = "upstream_unavailable", "cannot connect to the provider"
    return UpstreamError(code, message, detail=error.detail, retryable=retryable, stall=stall)


def response_error(
    status: int, headers: Mapping[str, str], body: bytes, redact: Redactor, now: float
) -> UpstreamError:
    """The error for a response whose `status` is not 200. `body`: its first bytes; `now`: Unix time in seconds."""
    text = error_message(body)
    shown = redact(text) or "no explanation"
    detail = redact.withheld_detail(text)
    if 300 <= status < 400:
        # Not followed: that would send the key to whichever address the response names.
        message = f"the provider answered {status}, a redirect; set the base URL to where it really is"
        detail = f"a redirect to {redact.for_server_log(headers.get('location', 'nowhere'))}"
        return UpstreamError("upstream_bad_request", message, detail=detail)
    if status < 300:
        message = f"the provider answered {status} instead of a stream: {shown}"
        return UpstreamError("upstream_malformed", message, detail=detail)
    final = status == 407 or (status == 429 and _quota_is_used_up(body))
    return UpstreamError(
        _code_for(status),
        f"the provider answered {status}: {shown}",
        detail=detail,
        retryable=False if final else None,
        retry_after=retry_after(headers, now),
    )


def find_error(value: Any) -> Any | None:
    """The error object in a JSON value that is no chunk; None if the value reports no error."""
    if isinstance(value, list):  # Gemini's shape
        return next((found for each in value if isinstance(each, dict) and (found := find_error(each))), None)
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if error:
        return error if isinstance(error, dict | str | list) else value
    state = value.get("base_resp")  # MiniMax has it in every chunk
    if isinstance(state, dict) and state.get("status_code") not in _NO_ERROR:
        return {**state, "code": state.get("status_code")}
    if value.get("object") == "error" or value.get("type") == "error" or value.get("error_type"):
        return value
    if any(isinstance(name, str) and name.lower().startswith("error") and value[name] for name in value):
        return value
    if value.get("choices"):
        return None
    if isinstance(value.get("message"), str) and value.get("code") not in _NO_ERROR:
        return value  # DashScope
    return value if value.get("detail") else None  # FastAPI


def stream_error(error: Any, redact: Redactor, *, whole: bool = False) -> UpstreamError:
    """The error for an error object inside a 200 response. Its code, status or type says whether it is temporary.

    `whole`: the object is all that came, instead of an answer; then it gets the code of the corresponding status.
    """
    text = find_message(error) or _as_text(error)
    shown, detail = redact(text), redact.withheld_detail(text)
    status, used_up = _status_of(error)
    final = used_up or (status is not None and 400 <= status < 500 and status not in _TEMPORARY_STATUSES)
    if whole and status is not None:
        message = f"the provider answered 200 with an error: {shown}"
        return UpstreamError(_code_for(status), message, detail=detail, retryable=not final)
    return UpstreamError(
        "upstream_error", f"the provider stopped the answer: {shown}", detail=detail, retryable=not final
    )


def _quota_is_used_up(body: bytes) -> bool:
    text = body.decode(errors="replace")
    letters = _letters_only(text)
    if any(code in letters for code in _USED_UP_CODES):
        return True
    try:
        return _status_of(json.loads(text))[1]
    except (ValueError, RecursionError):
        return False


def _as_text(error: Any) -> str:
    try:
        return error if isinstance(error, str) else json.dumps(error)
    except RecursionError:
        return "an error that is nested too deeply to be told"


def _code_for(status: int) -> str:
    return _CODES.get(status, "upstream_unavailable" if status >= 500 else "upstream_bad_request")


def _status_of(error: Any) -> tuple[int | None, bool]:
    """The status that an error object names by number or word, else None; and whether the quota is used up."""
    letters = [_letters_only(word) for word in _values_at(error, _WORDS) if isinstance(word, str)]
    used_up = any(word in each for each in letters for word in _USED_UP)
    for number in _values_at(error, _NUMBERS):
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) == 3:
            number = int(number)
        if type(number) is int and 400 <= number < 600:
            return number, used_up
    for word, status in _STATUS_BY_WORD:
        if any(word in each for each in letters):
            return status, used_up
    return None, used_up


def _values_at(error: Any, names: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(error, dict):
        for holder in (error, error.get("error"), error.get("metadata")):  # OpenRouter's `metadata.error_type`
            if isinstance(holder, dict):
                yield from (holder[name] for name in names if name in holder)
    elif isinstance(error, list):
        for each in error:
            yield from _values_at(each, names) if isinstance(each, dict) else ()


def _letters_only(text: str) -> str:
    return _NOT_ALPHANUMERIC.sub("", text.lower())


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
