"""Turns the bytes of one answer into chunks and a finish or a failure, for every provider.

Owns what all stream formats share: the event stream around the chunks; invalid JSON that can be repaired; errors
in all the places where providers report them; messages that are not understood, which are counted and skipped; and
that whatever came before a failure is delivered. An answer is finished only if the provider said how it ended, and
after that nothing can fail it any more. Pure: must not know HTTP, time or one provider; a provider's module gives
a `StreamFormat`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from server.http_client.sse_parser import SseMessage, SseMessageTooLong, SseParser
from server.providers.interface import Chunk, Finish, UpstreamError
from server.unicode_safety import REPLACEMENT, repair_text

from .answer_accumulator import AnswerAccumulator, AnswerFailed, MalformedMessage, UnknownMessage
from .carried_fields import CarriedFields
from .error_mapping import find_error, stream_error
from .redaction import Redactor, error_message

__all__ = ["AnswerDecoder", "StreamFormat"]

C = TypeVar("C")
MAX_SHOWN = 200  # characters of a message that was not understood


@dataclass(frozen=True, slots=True)
class StreamFormat(Generic[C]):
    """A provider's stream format. `C` is the type of one decoded message ("chunk").

    `name`: the wire format's name. `decoder`: decodes the JSON of a chunk. `read`: adds a chunk to the answer; it
    raises `UnknownMessage` or msgspec's ValidationError for what is no chunk, before it took anything from it,
    `MalformedMessage` if a part of the answer is lost, `AnswerFailed`, or `UpstreamError`. `carried`: makes the
    collector of what the provider wants back. `closes_calls`: the format says of each call that it is whole.
    `drop_invalid`: the JSON value of a chunk without the parts that made it invalid; it raises `UnknownMessage` if
    the value is no chunk at all.
    """

    name: str
    decoder: msgspec.json.Decoder[C]
    read: Callable[[C, AnswerAccumulator, Redactor], None]
    carried: Callable[[Callable[[int], None]], CarriedFields]
    closes_calls: bool
    drop_invalid: Callable[[Any], Any]


class AnswerDecoder(Generic[C]):
    """Decodes one answer: `feed` the body's bytes as they come, then `complete` or `close`.

    It wants more bytes while both `finish` and `failure` are None. `received_any`: at least one message has come.
    `unknown`: how many messages were not understood. `collect_carry`: collect what the provider wants back,
    because another request may follow that has to bring it back.
    """

    def __init__(self, stream_format: StreamFormat[C], redact: Redactor, *, collect_carry: bool = False) -> None:
        self.finish: Finish | None = None
        self.failure: UpstreamError | None = None
        self.received_any = False
        self.unknown = 0
        self._format = stream_format
        self._redact = redact
        self._stream = SseParser()
        self._answer = AnswerAccumulator(redact)
        self._invalid_utf8 = 0
        self._last_unknown = ""  # shown in the message of a failure that follows
        if collect_carry:
            self._answer.carried = stream_format.carried(self._answer.reserve)

    @property
    def repaired(self) -> int:
        return self._answer.repaired + self._invalid_utf8

    @property
    def has_reason(self) -> bool:
        """The finish reason has arrived."""
        return self._answer.has_reason

    @property
    def started(self) -> bool:
        """A part of the answer has arrived (text, reasoning, a piece of a call), so it is paid for."""
        return self._answer.started

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that these bytes complete. The caller then looks at `finish` and `failure`."""
        answer, too_long = self._answer, None
        answer.chunks = []
        try:
            messages = self._stream.feed(data)
        except SseMessageTooLong as error:
            messages, too_long = error.messages, error
        for message in messages:
            if not message.data.strip():
                continue  # a keep-alive
            self.received_any = True
            if message.data == b"[DONE]":
                return self._end(
                    self._cut_error("the provider ended the stream without saying how the answer ended")
                )
            try:
                self._read_message(message)
            except UpstreamError as error:
                return self._fail(error)
            if answer.closed:
                return self._end(self._cut_error("the provider ended the answer without saying why"))
        if too_long:
            return self._end(UpstreamError("upstream_malformed", str(too_long)))
        return answer.chunks

    def close(self, error: UpstreamError) -> list[Chunk]:
        """No more bytes come, because of `error`. Returns the last chunks.

        The answer is finished if its finish reason has arrived; otherwise it fails with `error`. But a body
        instead of a stream, or next to it, may report a different error, or be the whole answer: then that counts.
        """
        self._answer.chunks = []
        return self._end(error)

    def complete(self, content_type: str) -> list[Chunk]:
        """The body has ended, as its HTTP framing says. Otherwise as `close`."""
        shown = self.unparsed
        if self.received_any or content_type.startswith("text/event-stream"):
            return self.close(self._cut_error("the answer ended before its finish"))
        # A page or a JSON object in the stream's place is a wrong base URL, not a bad connection.
        kind = self._redact(content_type, MAX_SHOWN) or "something"
        what = f"the provider answered {kind}, no event stream; is the base URL right?"
        return self.close(UpstreamError("upstream_malformed", f"{what} It begins: {shown}" if shown else what))

    @property
    def unparsed(self) -> str:
        """The beginning of what came and was not understood; empty if there is nothing."""
        text = error_message(self._stream.unparsed()) or self._last_unknown
        return self._redact(text, MAX_SHOWN)

    def _end(self, error: UpstreamError) -> list[Chunk]:
        if not self.has_reason:
            try:
                self._read_body(self._stream.unparsed())
            except UpstreamError as reported:
                return self._fail(reported)
        if not self.has_reason:
            return self._fail(error)
        chunks = self._answer.flush()
        self.finish = self._answer.finish(self._format.name, closes_calls=self._format.closes_calls)
        return chunks

    def _fail(self, error: UpstreamError) -> list[Chunk]:
        self.failure = error
        return self._answer.flush()

    def _cut_error(self, what: str) -> UpstreamError:
        shown = self.unparsed
        return UpstreamError("upstream_cut", f"{what}; it sent: {shown}" if shown else what)

    def _read_message(self, message: SseMessage) -> None:
        """Reads one message of the stream. Raises `UpstreamError`, but not after the finish reason."""
        try:
            if message.event == "error":
                raise stream_error(_json_or_text(message.data), self._redact)
            self._read_chunk(message.data)
        except UpstreamError:
            if not self.has_reason:
                raise
            self._skip(message.data)

    def _read_body(self, body: bytes) -> None:
        """Reads a body that is no event stream: an error, or the whole answer of a server that cannot stream."""
        if not body:
            return
        value = _json_or_text(body)
        error = find_error(value)
        if error is not None:
            raise stream_error(error, self._redact, whole=not self.received_any)
        if isinstance(value, dict) and not self.started:
            self._read_chunk(body)

    def _read_chunk(self, data: bytes) -> None:
        answer = self._answer
        try:
            self._format.read(self._decode(data), answer, self._redact)
        except (UnknownMessage, msgspec.ValidationError) as unknown:
            error = find_error(_json_or_text(data))
            if error is not None:
                raise stream_error(error, self._redact) from None
            if not isinstance(unknown, UnknownMessage) or unknown.lost:
                answer.lose_piece()
            self._skip(data)
        except MalformedMessage as error:
            raise self._malformed(str(error), data) from error
        except AnswerFailed as error:
            words = f"the provider ended the answer with the reason {self._redact(str(error), 64)}"
            raise UpstreamError("upstream_error", words) from None
        except RecursionError as error:
            raise self._malformed("too deeply nested", data) from error
        finally:
            answer.damaged = False

    def _skip(self, data: bytes) -> None:
        self.unknown += 1
        self._last_unknown = data[: 4 * MAX_SHOWN].decode(errors="replace")

    def _decode(self, data: bytes) -> C:
        try:
            return self._format.decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = self._load_repaired(data)
        try:
            return msgspec.convert(value, self._format.decoder.type)
        except (msgspec.ValidationError, UnicodeEncodeError):  # the latter: an unpaired surrogate, no object
            error = find_error(value)
            if error is not None:
                raise stream_error(error, self._redact) from None
            chunk = msgspec.convert(self._format.drop_invalid(value), self._format.decoder.type)
            self._answer.lose_piece()
            self._skip(data)  # only a part of it was understood
            return chunk

    def _load_repaired(self, data: bytes) -> Any:
        """The value of JSON that msgspec refuses: unpaired surrogates and invalid UTF-8 are repaired."""
        text = data.decode(errors="replace")  # as the WHATWG standard decodes an event stream
        try:
            value = json.loads(text, object_pairs_hook=_with_repaired_keys)
        except ValueError as error:
            if text.lstrip()[:1] in ("{", "["):
                raise self._malformed("no JSON", data) from error  # a part of the answer may have been in it
            raise UnknownMessage("no JSON") from error
        lost = text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())
        self._invalid_utf8 += lost
        self._answer.damaged = lost > 0
        return value

    def _malformed(self, what: str, data: bytes) -> UpstreamError:
        return UpstreamError(
            "upstream_malformed", f"a chunk is malformed ({what}): {self._redact(data, MAX_SHOWN)}"
        )


def _with_repaired_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys have no unpaired surrogates: msgspec cannot compare those with a field's name."""
    return {repair_text(name): value for name, value in pairs}


def _json_or_text(data: bytes) -> Any:
    """The data's JSON value, or its text if it is not JSON."""
    text = data.decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
