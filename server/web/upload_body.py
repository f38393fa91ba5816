"""The bytes of a file in the body of a POST: the body itself, or the field `file` of a form.

Owns how long a body may take, which types of bodies are taken, and how a form is read: by werkzeug's decoder, fed
piece by piece, so that no body is ever held whole. Must not know where the bytes go.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from server.problem import Problem
from server.web.edge.http_messages import ClientGone
from server.web.edge.problem_json import body_too_slow

STALL_SECONDS: Final = 30.0
"""How long the next bytes of a body may take."""
MAX_BODY_SECONDS: Final = 900.0
"""How long a whole body may take: 32 MiB at 300 kbit/s. It is below `UPLOAD_SECONDS` of the store."""
MAX_FORM_OVERHEAD: Final = 65_536
"""Bytes of a form that are not of the file: its boundaries and its field's header."""
FIELD: Final = "file"
_PIECE: Final = 65_536
_FORM = "multipart/form-data"
_REFUSED: Final = frozenset({"application/json", "application/x-www-form-urlencoded"})
_LINE_END = re.compile(b"[\r\n]")
_BOUNDARY = re.compile("[!-~](?:[ -~]{0,68}[!-~])?")


async def body_parts(
    receive: Callable[[], Awaitable[Any]], count: Callable[[int], object]
) -> AsyncGenerator[bytes, None]:
    """The parts of a request's body as they come from the connection.

    `count` is called with the size of each, and may raise. Raises `Problem` 408 `body_too_slow`, and `ClientGone`
    where the client goes before its end.
    """
    deadline = trio.current_time() + MAX_BODY_SECONDS
    more = True
    while more:
        message = None
        with trio.move_on_at(min(deadline, trio.current_time() + STALL_SECONDS)):
            message = await receive()
        if message is None:
            raise body_too_slow()
        if message["type"] != "http.request":
            raise ClientGone
        more = message.get("more_body", False)
        if data := message.get("body", b""):
            count(len(data))
            yield data


def form_boundary(headers: Mapping[str, str]) -> bytes | None:
    """The boundary of a form; None where the body itself is the file.

    Raises `Problem` 415 `unsupported_media_type` for JSON, for a form of another kind, and for a compressed body.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(
            415, "unsupported_media_type", f"A file has to come as it is, not in the coding {coding[:100]!a}."
        )
    kind, options = parse_options_header(headers.get("content-type", ""))
    kind = kind.lower()
    if kind in _REFUSED or (kind.startswith("multipart/") and kind != _FORM):
        raise Problem(
            415,
            "unsupported_media_type",
            f"A file comes as the body itself, with its own type or application/octet-stream, or as the field "
            f"`{FIELD}` of {_FORM}; not as {kind[:100]!a}.",
        )
    if kind != _FORM:
        return None
    boundary = options.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):  # RFC 2046 section 5.1.1
        raise _bad_form("its Content-Type names no boundary of 1 to 70 characters")
    return boundary.encode("ascii")


async def form_file(parts: AsyncIterator[bytes], boundary: bytes) -> AsyncGenerator[bytes, None]:
    """The bytes of the field `file` of a form. Raises `Problem` 422 `invalid_form`, and what `parts` raises."""
    form = _Form(boundary)
    async for part in parts:
        for start in range(0, len(part), _PIECE):
            for data in form.feed(part[start : start + _PIECE]):
                yield data
    for data in form.end():
        yield data


class _Form:
    """One form, as its bytes come."""

    def __init__(self, boundary: bytes) -> None:
        self._decoder = MultipartDecoder(boundary, max_form_memory_size=_PIECE + MAX_FORM_OVERHEAD)
        self._boundary_bytes = len(boundary) + len(b"\r\n----\r\n")
        self._held = b""
        self._fields = 0
        self._ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes; returns those of the file."""
        return self._decode(self._hold_back(data))

    def _decode(self, data: bytes) -> list[bytes]:
        found = list[bytes]()
        try:
            self._decoder.receive_data(data)
            while not isinstance(event := self._decoder.next_event(), NeedData):
                if isinstance(event, File | Field):
                    self._begin_field(event.name)
                elif isinstance(event, Data):
                    self._ended = not event.more_data
                    if event.data:
                        found.append(event.data)
        except RequestEntityTooLarge:
            raise _bad_form(f"it has more than {MAX_FORM_OVERHEAD} bytes besides its file") from None
        except ValueError:  # of UnicodeDecodeError too: a field's header that is no UTF-8
            raise _bad_form("it cannot be read as a form") from None
        return found

    def _hold_back(self, data: bytes) -> bytes:
        """The bytes that the decoder may have now; what could be the beginning of a boundary waits for its rest.

        The decoder (werkzeug 3.1) looks at what it has. Where a part of the body ends inside a line end, or one
        byte behind a boundary, it takes a CR or LF of the form for one of the file. So it gets each line end
        together with what follows, at least a boundary long.
        """
        data = self._held + data
        end = _LINE_END.search(data, max(0, len(data) - self._boundary_bytes))
        split = len(data) if end is None else end.start()
        self._held = data[split:]
        return data[:split]

    def _begin_field(self, name: str | None) -> None:
        self._fields += 1
        if name != FIELD:
            raise _bad_form(f"it has a field {(name or '')[:100]!a}")
        if self._fields > 1:
            raise _bad_form("it has several")

    def end(self) -> list[bytes]:
        """The body is whole: returns the last bytes of the file. Raises `Problem` unless the form is whole."""
        found = self._decode(self._held)
        try:
            self._decoder.receive_data(None)
            whole = isinstance(self._decoder.next_event(), Epilogue)
        except ValueError:
            whole = False
        if not whole:
            raise _bad_form("it ends before its last boundary")
        if not self._ended:
            raise _bad_form("it has none")
        return found


def _bad_form(why: str) -> Problem:
    return Problem(422, "invalid_form", f"The form has to hold one field `{FIELD}` and nothing else; {why}.")
