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
from .http import Limits, Post
from .model import Finish
from .refusals import refusal
from .wording import Quoter

__all__ = ["HttpAttempt"]

MAX_ERROR_BODY = 1 << 16  # bytes


class HttpAttempt:
    """One POST's worth of an answer, an `Attempt`. Made without I/O."""

    def __init__(self, post: Post, request: bytes, decoder: Decoder[Any], limits: Limits, quote: Quoter) -> None:
        self.finish: Finish | None = None
        self._post = post
        self._request = request
        self._decoder = decoder
        self._limits = limits
        self._quote = quote

    @property
    def repaired(self) -> int:
        return self._decoder.repaired

    async def receive(self) -> Sequence[str]:
        decoder = self._decoder
        if not self._post.status and not decoder.failure:
            await self._start()
        while decoder.finish is None:
            if decoder.failure:
                raise decoder.failure
            texts = await self._receive()
            if texts:
                return texts
        await trio.lowlevel.checkpoint()
        if self.finish is None:
            await self._post.read_out()
        self.finish = decoder.finish
        return ()

    async def aclose(self) -> None:
        await self._post.aclose()

    async def _start(self) -> None:
        post = self._post
        try:
            await post.start(self._request)
            if post.status != 200:
                body = await post.read_up_to(MAX_ERROR_BODY)
                raise refusal(post.status, post.headers, body, self._quote, time.time())
            coding = post.headers.get("content-encoding", "identity")
            if coding != "identity":
                raise UpstreamError("upstream_malformed", f"the provider sent {self._quote(coding)}, unasked")
        except UpstreamError as error:
            self._decoder.close(error)  # so that every later receive raises it as well
            raise

    async def _receive(self) -> list[str]:
        decoder = self._decoder
        # After the finish reason there is nothing to wait for but usage and the end, which some never send.
        within = self._limits.tail if decoder.finishing else self._limits.idle
        try:
            data = await self._post.receive_some(within)
        except UpstreamError as error:
            ended = error
        else:
            if data:
                return decoder.feed(data)
            ended = UpstreamError("upstream_cut", "the answer ended before its finish")
        await trio.lowlevel.checkpoint()
        return decoder.close(self._explained(ended))

    def _explained(self, error: UpstreamError) -> UpstreamError:
        """A page or a JSON object in the stream's place is a wrong base URL, not a bad connection."""
        kind = self._post.headers.get("content-type", "")
        if error.code != "upstream_cut" or self._decoder.heard or kind.startswith("text/event-stream"):
            return error
        message = (
            f"the provider answered {self._quote(kind) or 'something'}, no event stream; is the base URL right?"
        )
        return UpstreamError("upstream_malformed", message)
