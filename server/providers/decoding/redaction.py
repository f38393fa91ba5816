"""Redacts a provider's messages before they go into our own error messages, which every reader of a run can see.

Owns the removal of the key (some providers and proxies repeat it) and of names and addresses of the operator's
network, the repair of control characters and invalid text, the limit on the length, and the search for the message
in the usual shapes of an error body. Pure: must not know HTTP or error codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from server.unicode_safety import repair_text

__all__ = ["Redactor", "error_message", "find_message"]

MAX_QUOTE = 500  # characters
MAX_PROBLEMS = 3  # how many problems of a list are shown
MAX_DEPTH = 8
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_INVISIBLE = re.compile(
    r"<!--.*?(-->|\Z)|<(script|style|head)\b.*?(</\2\s*>|\Z)|<[^>]*(>|\Z)", re.DOTALL | re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)
_MESSAGE_FIELDS = ("error", "message", "detail", "msg", "error_message", "error_msg", "status_msg", "errors")
# Addresses that are private (RFC 1918, RFC 4193, RFC 6598), loopback or link-local, with a port.
_PRIVATE_ADDRESS = re.compile(
    r"(?<![\d.])(?:10\.\d{1,3}|127\.\d{1,3}|169\.254|192\.168|172\.(?:1[6-9]|2\d|3[01])"
    r"|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\.\d{1,3}\.\d{1,3}(?::\d{1,5})?(?![\d.])"
    r"|\[?(?<![0-9a-f:])(?:::1|fe80:[0-9a-f:]+|f[cd][0-9a-f]{2}:[0-9a-f:]+)(?![0-9a-f:])(?:\]:\d{1,5})?",
    re.IGNORECASE,
)
# Names that no public server has: ICANN's .internal, RFC 6762, RFC 8375, and the usual ones of clusters.
_INTERNAL_HOST = re.compile(
    r"(?<![\w.-])(?:[\w-]{1,63}\.)+(?:internal|local|home\.arpa|lan|corp|intranet|svc)(?![\w-]|\.\w)(?::\d{1,5})?",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"(://)[^\s/]{1,200}@"
)  # user and password in a URL: a gateway may quote the URL of its own database


class Redactor:
    """Redacts a provider's messages. It knows the secrets (the key, a proxy's password) and never shows them.

    `hosts`: names in the operator's network (a proxy, an internal server), which only the server's own log may
    show.
    """

    __slots__ = ("_hosts", "_secrets")

    def __init__(self, *secrets: str | None, hosts: Iterable[str] = ()) -> None:
        self._secrets = [secret for secret in secrets if secret]
        names = sorted({host for host in hosts if host}, key=len, reverse=True)
        pattern = "|".join(rf"(?<![\w.-]){re.escape(name)}(?::\d{{1,5}})?(?![\w-])" for name in names)
        self._hosts = re.compile(pattern, re.IGNORECASE) if names else None

    def __call__(self, message: str | bytes, limit: int = MAX_QUOTE) -> str:
        """The message as one line of at most `limit` characters, safe for the log and for every reader."""
        text = self._without_secrets(message)
        if self._hosts is not None:
            text = self._hosts.sub("[host]", text)
        return _line(_PRIVATE_ADDRESS.sub("[address]", _INTERNAL_HOST.sub("[host]", text)), limit)

    def for_server_log(self, message: str | bytes, limit: int = MAX_QUOTE) -> str:
        """The same for the server's own log, which may show hosts and addresses."""
        return _line(self._without_secrets(message), limit)

    def withheld_detail(self, message: str | bytes, limit: int = MAX_QUOTE) -> str:
        """The message for the server's own log if readers see less of it, else an empty text."""
        private = self.for_server_log(message, limit)
        return "" if private == self(message, limit) else private

    def _without_secrets(self, message: str | bytes) -> str:
        text = message.decode(errors="replace") if isinstance(message, bytes) else message
        for secret in self._secrets:
            text = text.replace(secret, "[key]")  # before the text is cut, or a piece of the key would stay
        return _LOGIN.sub(r"\1[login]@", text)


def _line(text: str, limit: int) -> str:
    text = repair_text(_BLANK.sub(" ", text)).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def error_message(body: bytes) -> str:
    """The message in the body of an error response, or the whole body if it has none of the usual shapes.

    Of a web page, the visible text is returned, with the title first.
    """
    try:
        found = find_message(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        found = None  # a proxy's error page, or truncated JSON
    text = body.decode(errors="replace")
    if found is None and text.lstrip().startswith("<"):
        title = _TITLE.search(text)
        found = f"{title[1].strip() if title else ''} {_INVISIBLE.sub(' ', text)}".strip()
    return found or text


def find_message(value: Any, depth: int = MAX_DEPTH) -> str | None:
    """The message in `{"error": {"message": …}}`, `{"error": …}`, `{"message": …}`, `{"detail": …}`, a string.

    Of a list (Gemini's errors, pydantic's problems) the first few, each with the field that it names.
    """
    if isinstance(value, str):
        return value or None
    if not depth:
        return None
    if isinstance(value, list):
        messages = (find_message(each, depth - 1) for each in value[:MAX_PROBLEMS] if isinstance(each, dict))
        return "; ".join(text for text in messages if text) or None
    if isinstance(value, dict):
        for name in _MESSAGE_FIELDS:
            if (text := find_message(value.get(name), depth - 1)) is not None:
                return f"{_location(value)}{text}"
        for name, text in value.items():  # Ollama has `{"error parsing tool call": "…"}`
            if isinstance(name, str) and name.lower().startswith("error") and isinstance(text, str):
                return f"{name}: {text}"
    return None


def _location(problem: dict[str, Any]) -> str:
    location = problem.get("loc")
    if not isinstance(location, list) or not location:
        return ""
    return ".".join(str(step) for step in location[:8]) + ": "
