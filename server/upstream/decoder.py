"""One answer's bytes into chunks, finish and failure, whichever provider's they are.

Owns what all wire formats share: the event stream around the chunks, broken JSON that can be repaired, errors in
all the places where providers tell them, that what nobody knows is counted and passed by, and that what came
before a fault is delivered. An answer is finished only if the provider said how it ended; after that nothing fails
it any more. Pure: must not know HTTP, time or a provider; a provider's module gives a `Wire`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from .carry import Keeper
from .draft import Draft, Failed, Malformed, Unknown
from .errors import UpstreamError
from .eventstream import EventStream, Message, MessageTooLong
from .model import Chunk, Finish
from .refusals import error_in, stream_error
from .surrogates import REPLACEMENT
from .wording import Quoter, error_text

__all__ = ["Decoder", "Wire"]

C = TypeVar("C")
SHOWN = 200  # characters of what was not understood


@dataclass(frozen=True, slots=True)
class Wire(Generic[C]):
    """A provider's stream format: its name, the type of a chunk, and what one adds to the answer.

    `read` raises `Unknown` or msgspec's ValidationError for what is no chunk, before it took anything from it;
    `Malformed` for one of which something is lost; `Failed`; `UpstreamError`. `keeper` takes down what the
    provider wants back. `closes_calls`: the format says of each call that it is whole. `mended`: the JSON of a
    chunk without what made it invalid; raises `Unknown` if it is none.
    """

    name: str
    chunk: msgspec.json.Decoder[C]
    read: Callable[[C, Draft, Quoter], None]
    keeper: Callable[[Callable[[int], None]], Keeper]
    closes_calls: bool
    mended: Callable[[Any], Any]


class Decoder(Generic[C]):
    """One answer's decoder: feed the body's bytes as they come, then `close`.

    Wants more bytes while both `finish` and `failure` are None. `heard`: at least one message has come. `unknown`:
    how many of them nobody understood. `carrying`: another request may follow that has to bring back what this
    answer's provider wants to see again.
    """

    def __init__(self, wire: Wire[C], quote: Quoter, *, carrying: bool = False) -> None:
        self.finish: Finish | None = None
        self.failure: UpstreamError | None = None
        self.heard = False
        self.unknown = 0
        self._wire = wire
        self._quote = quote
        self._stream = EventStream()
        self._draft = Draft(quote)
        self._broken_utf8 = 0
        self._words = ""  # what was not understood last, for the failure that may follow
        if carrying:
            self._draft.keeper = wire.keeper(self._draft.hold)

    @property
    def repaired(self) -> int:
        return self._draft.repaired + self._broken_utf8

    @property
    def finishing(self) -> bool:
        """The finish reason has come."""
        return self._draft.ending

    @property
    def spoke(self) -> bool:
        """Something of the answer has come: text, a thought, a piece of a call. It is paid for."""
        return self._draft.spoke

    def feed(self, data: bytes) -> list[Chunk]:
        """What of the answer these bytes complete; then look at `finish` and `failure`."""
        draft, too_long = self._draft, None
        draft.chunks = []
        try:
            messages = self._stream.feed(data)
        except MessageTooLong as error:
            messages, too_long = error.messages, error
        for message in messages:
            if not message.data.strip():
                continue  # a sign of life
            self.heard = True
            if message.data == b"[DONE]":
                return self._end(self._unsaid("the provider ended the stream without saying how the answer ended"))
            try:
                self._message(message)
            except UpstreamError as error:
                return self._fail(error)
            if draft.over:
                return self._end(self._unsaid("the provider ended the answer without saying why"))
        if too_long:
            return self._end(UpstreamError("upstream_malformed", str(too_long)))
        return draft.chunks

    def close(self, error: UpstreamError) -> list[Chunk]:
        """No more bytes, for this reason: a finish if its reason has come, else the failure. Maybe last chunks.

        A body in the place of a stream, or beside it, may have told of another error, or be the whole answer.
        """
        self._draft.chunks = []
        return self._end(error)

    def complete(self, content_type: str) -> list[Chunk]:
        """The body has ended, as its framing says; as `close`."""
        words = self.outside
        if self.heard or content_type.startswith("text/event-stream"):
            return self.close(self._unsaid("the answer ended before its finish"))
        # A page or a JSON object in the stream's place is a wrong base URL, not a bad connection.
        kind = self._quote(content_type, SHOWN) or "something"
        what = f"the provider answered {kind}, no event stream; is the base URL right?"
        return self.close(UpstreamError("upstream_malformed", f"{what} It begins: {words}" if words else what))

    @property
    def outside(self) -> str:
        """What came and was not understood, the beginning of it; empty if there is nothing."""
        text = error_text(self._stream.outside()) or self._words
        return self._quote(text, SHOWN)

    def _end(self, error: UpstreamError) -> list[Chunk]:
        if not self.finishing:
            try:
                self._body(self._stream.outside())
            except UpstreamError as told:
                return self._fail(told)
        if not self.finishing:
            return self._fail(error)
        chunks = self._draft.last()
        self.finish = self._draft.finish(self._wire.name, closes_calls=self._wire.closes_calls)
        return chunks

    def _fail(self, error: UpstreamError) -> list[Chunk]:
        self.failure = error
        return self._draft.last()

    def _unsaid(self, what: str) -> UpstreamError:
        words = self.outside
        return UpstreamError("upstream_cut", f"{what}; it sent: {words}" if words else what)

    def _message(self, message: Message) -> None:
        """Raises `UpstreamError`, but not after the reason has come: what follows it is nobody's business."""
        try:
            if message.event == "error":
                raise stream_error(_as_json(message.data), self._quote)
            self._read(message.data)
        except UpstreamError:
            if not self.finishing:
                raise
            self._pass_by(message.data)

    def _body(self, body: bytes) -> None:
        """A body that is no event stream: an error, or an answer of a server that knows no streams."""
        if not body:
            return
        value = _as_json(body)
        error = error_in(value)
        if error is not None:
            raise stream_error(error, self._quote, whole=not self.heard)
        if isinstance(value, dict) and not self.spoke:
            self._read(body)

    def _read(self, data: bytes) -> None:
        draft = self._draft
        try:
            self._wire.read(self._decode(data), draft, self._quote)
        except (Unknown, msgspec.ValidationError) as unknown:
            error = error_in(_as_json(data))
            if error is not None:
                raise stream_error(error, self._quote) from None
            if not isinstance(unknown, Unknown) or unknown.lost:
                draft.lose()
            self._pass_by(data)
        except Malformed as error:
            raise self._malformed(str(error), data) from error
        except Failed as error:
            words = f"the provider ended the answer with the reason {self._quote(str(error), 64)}"
            raise UpstreamError("upstream_error", words) from None
        except RecursionError as error:
            raise self._malformed("too deeply nested", data) from error
        finally:
            draft.damaged = False

    def _pass_by(self, data: bytes) -> None:
        self.unknown += 1
        self._words = data[: 4 * SHOWN].decode(errors="replace")

    def _decode(self, data: bytes) -> C:
        try:
            return self._wire.chunk.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = self._loaded(data)
        try:
            return msgspec.convert(value, self._wire.chunk.type)
        except msgspec.ValidationError:
            error = error_in(value)
            if error is not None:
                raise stream_error(error, self._quote) from None
            chunk = msgspec.convert(self._wire.mended(value), self._wire.chunk.type)
            self._draft.lose()
            self._pass_by(data)  # a part of it was not understood
            return chunk

    def _loaded(self, data: bytes) -> Any:
        """JSON that msgspec refuses: half a surrogate pair and broken UTF-8 can be repaired, the rest cannot."""
        text = data.decode(errors="replace")  # as the WHATWG rules decode an event stream
        try:
            value = json.loads(text)
        except ValueError as error:
            if text.lstrip()[:1] in ("{", "["):
                raise self._malformed("no JSON", data) from error  # part of the answer may have been in it
            raise Unknown("no JSON") from error
        lost = text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())
        self._broken_utf8 += lost
        self._draft.damaged = lost > 0
        return value

    def _malformed(self, what: str, data: bytes) -> UpstreamError:
        return UpstreamError("upstream_malformed", f"a chunk is malformed ({what}): {self._quote(data, SHOWN)}")


def _as_json(data: bytes) -> Any:
    """The data as JSON, or as text if it is none."""
    text = data.decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
