"""What a receiver gets: the body, and the three headers by which it knows who sent it. Pure.

Standard Webhooks 1.0: the id is the same for every try, so a receiver that got it twice can tell; the time, and
with it the signature, are the try's own.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from pydantic import SecretStr
from standardwebhooks import Webhook

from eventstore import Event
from server.config.public_url import PublicUrl
from server.wire.event_json import encode

MOST_EVENT = 128 * 1024
"""Bytes of an event that go into a body; a larger one is left out, and the snapshot has to be asked for."""


def message_id(generation: str) -> str:
    """The `webhook-id` of all tries: a generation has one webhook."""
    return "msg_" + generation.partition("_")[2]


def body(generation: str, conversation: str, event: Event, public: PublicUrl) -> bytes:
    """JSON: which end it was, when, and of what; `event` is the event object as every transport shows it.

    `snapshot` is a whole URL where the server knows its own: a receiver asked for nothing, and has no address to
    resolve a path against.
    """
    told = encode(event)
    return msgspec.json.encode(
        {
            "type": event.type,
            "timestamp": event.at,
            "data": {
                "generation": generation,
                "conversation": conversation,
                "position": event.position,
                "event": msgspec.Raw(told) if len(told) <= MOST_EVENT else None,
                "snapshot": public.url(f"/v1/generations/{generation}"),
            },
        }
    )


def headers(secret: SecretStr, generation: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """The headers of a try at a moment (UTC)."""
    name = message_id(generation)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret.get_secret_value()).sign(name, at, body.decode()),
    }
