"""One attempt at an answer over HTTP: connect, refusal or stream, finish.

Owns the life of one POST as `retry` wants it, the same for every provider. What bytes mean is the decoder's, the
socket is `http`'s. Must not know a provider, the key or the log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import trio

from .decoder import Decoder
from .errors import UpstreamError
from .fallback import Asking
from .http import Limits, Post
from .model import Chunk, Finish
from .refusals import refusal
from .retry import AskAgain
from .wording import Quoter

__all__ = ["HttpAttempt"]

MAX_ERROR_BODY = 1 << 16  # bytes
LONG = 30.0  # seconds in which a provider may have worked, whoever ended them; hardly a gateway's limit is shorter


class HttpAttempt:
    """One POST's worth of an answer, an `Attempt`. Made without I/O."""

    def __init__(
        self, post: Post, request: bytes, decoder: Decoder[Any], limits: Limits, quote: Quoter, asking: Asking
    ) -> None:
        """`asking` is told how its request was taken, and may have another."""
        self.finish: Finish | None = None
        self._asking = asking
        self._post = post
        self._request = request
        self._decoder = decoder
        self._limits = limits
        self._quote = quote
        self._tail = limits.tail
        self._began = 0.0

    @property
    def repaired(self) -> int:
        return self._decoder.repaired

    @property
    def unknown(self) -> int:
        """How many messages of the stream nobody understood."""
        return self._decoder.unknown

    @property
    def spoke(self) -> bool:
        return self._decoder.spoke

    async def receive(self) -> Sequence[Chunk]:
        decoder = self._decoder
        if not self._post.status and not decoder.failure:
            await self._start()
        while decoder.finish is None:
            if decoder.failure:
                raise self._weighed(decoder.failure)
            chunks = await self._receive()
            if chunks:
                return chunks
        await trio.lowlevel.checkpoint()
        if self.finish is None:
            await self._post.read_out()
        self.finish = decoder.finish
        return ()

    async def aclose(self) -> None:
        await self._post.aclose()

    def _weighed(self, error: UpstreamError) -> UpstreamError:
        """It counts as a stall, too, where something between us and the provider lost patience first."""
        ended = error.code in ("upstream_cut", "upstream_unavailable") and error.retry_after is None
        if ended and trio.current_time() - self._began >= LONG:
            error.stall = True
        return error

    async def _start(self) -> None:
        post = self._post
        self._began = trio.current_time()
        try:
            await post.start(self._request)
            if post.status != 200:
                body = await post.read_up_to(MAX_ERROR_BODY)
                if self._asking.refused(post.status, body):
                    raise AskAgain
                raise refusal(post.status, post.headers, body, self._quote, time.time())
            coding = post.headers.get("content-encoding", "identity")
            if coding != "identity":
                raise UpstreamError("upstream_malformed", f"the provider sent {self._quote(coding)}, unasked")
            self._asking.accepted()
        except UpstreamError as error:
            self._decoder.close(self._weighed(error))  # so that every later receive raises it as well
            raise

    async def _receive(self) -> list[Chunk]:
        decoder = self._decoder
        # After the finish reason there is nothing to wait for but usage and the end, which some never send. All
        # together: signs of life may come for ever.
        tail, began = decoder.finishing, trio.current_time()
        try:
            data = await self._post.receive_some(self._tail if tail else self._limits.idle)
            if tail:
                self._tail = max(0.0, self._tail - (trio.current_time() - began))
        except UpstreamError as error:
            ended = error
        else:
            if data:
                return decoder.feed(data)
            await trio.lowlevel.checkpoint()
            return decoder.complete(self._post.headers.get("content-type", ""))
        await trio.lowlevel.checkpoint()
        return decoder.close(ended)
