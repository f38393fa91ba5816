"""Sends one webhook POST with a sender, without a webhook around it."""

import ssl

import trio

from server.webhooks.sender import Connect, Outcome, Sender

HEADERS = {"webhook-id": "msg_1"}


async def post(
    url: str,
    connect: Connect | None = None,
    *,
    allow_private: bool = False,
    context: ssl.SSLContext | None = None,
    timeout: float = 15.0,
) -> Outcome:
    """Makes one try."""
    sender = Sender(allow_private=allow_private, timeout=timeout, context=context)
    if connect is not None:
        sender = Sender(allow_private=allow_private, timeout=timeout, context=context, connect=connect)
    return await sender.post(url, HEADERS, b'{"a":1}')


async def nowhere(host: str, port: int) -> trio.abc.Stream:
    """Refuses to connect: no connection may be made in this test."""
    raise AssertionError((host, port))
