"""One answer's bytes into text, finish and failure, whichever provider's chunks they hold.

Owns what all wire formats share: the event stream around the chunks, broken JSON that can be repaired, what is
told of it when it cannot, and that text before a fault is delivered. Pure: must not know HTTP, time or a provider;
a provider's module gives a `Wire`, which is its chunk's type and how to read one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from .draft import Draft, Malformed
from .errors import UpstreamError
from .eventstream import EventStream, MessageTooLong
from .model import Finish
from .surrogates import REPLACEMENT
from .wording import Quoter

__all__ = ["Decoder", "Wire"]

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Wire(Generic[C]):
    """A provider's stream format: the type of a chunk, and what one adds to the answer.

    `read` raises `Malformed`, msgspec's ValidationError, or `UpstreamError` for an error that the chunk tells of.
    """

    chunk: msgspec.json.Decoder[C]
    read: Callable[[C, Draft, Quoter], None]


class Decoder(Generic[C]):
    """One answer's decoder: feed the body's bytes as they come, then `close`.

    Wants more bytes while both `finish` and `failure` are None; `heard`: at least one message has come.
    """

    def __init__(self, wire: Wire[C], quote: Quoter) -> None:
        self.finish: Finish | None = None
        self.failure: UpstreamError | None = None
        self.heard = False
        self._wire = wire
        self._quote = quote
        self._stream = EventStream()
        self._draft = Draft(quote)
        self._broken_utf8 = 0

    @property
    def repaired(self) -> int:
        return self._draft.repaired + self._broken_utf8

    @property
    def finishing(self) -> bool:
        """The finish reason has come."""
        return self._draft.ending

    def feed(self, data: bytes) -> list[str]:
        """The text of every content chunk that these bytes complete; then look at `finish` and `failure`."""
        draft, too_long = self._draft, None
        draft.texts = []
        try:
            messages = self._stream.feed(data)
        except MessageTooLong as error:
            messages, too_long = error.messages, error
        for message in messages:
            self.heard = True
            if message.data == b"[DONE]":
                return self._finish()
            try:
                self._read(message.data)
            except UpstreamError as error:
                return self._fail(error)
            if draft.over:
                return self._finish()
        if too_long:
            return self._fail(UpstreamError("upstream_malformed", str(too_long)))
        return draft.texts

    def close(self, error: UpstreamError) -> list[str]:
        """No more bytes, for this reason: a finish if its reason has come, else the failure. Maybe a last text."""
        self._draft.texts = []
        return self._finish() if self.finishing else self._fail(error)

    def _finish(self) -> list[str]:
        texts = self._draft.last()
        self.finish = self._draft.finish()
        return texts

    def _fail(self, error: UpstreamError) -> list[str]:
        self.failure = error
        return self._draft.last()

    def _read(self, data: bytes) -> None:
        try:
            self._wire.read(self._decode(data), self._draft, self._quote)
        except (Malformed, msgspec.ValidationError) as error:
            raise self._malformed(str(error), data) from error

    def _decode(self, data: bytes) -> C:
        try:
            return self._wire.chunk.decode(data)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._decode_broken(data)
        except RecursionError as error:
            raise self._malformed("too deeply nested", data) from error

    def _decode_broken(self, data: bytes) -> C:
        """A chunk that msgspec refuses: half a surrogate pair or broken UTF-8 can be repaired, the rest cannot."""
        try:
            text = data.decode(errors="replace")  # as the WHATWG rules decode an event stream
            chunk: C = msgspec.convert(json.loads(text), self._wire.chunk.type)
        except (ValueError, RecursionError) as error:
            raise self._malformed("no JSON", data) from error
        self._broken_utf8 += text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())
        return chunk

    def _malformed(self, what: str, data: bytes) -> UpstreamError:
        return UpstreamError("upstream_malformed", f"a chunk is malformed ({what}): {self._quote(data, 200)}")
