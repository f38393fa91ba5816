"""What receivers are sent: the id, the JSON body and the signed headers of each message.

Signed by Standard Webhooks 1.0 (https://github.com/standard-webhooks/standard-webhooks): `v1` with the secret
(HMAC-SHA256, by the standard's own library), `v1a` with each key pair (Ed25519). The id and the body of a message
are the same for every try, so a receiver can tell a repetition; the time, and so the signatures, differ. Pure: it
must not know when something is sent, or how.
"""

import base64
from collections.abc import Mapping
from datetime import datetime

import msgspec
from standardwebhooks import Webhook

from eventstore import Event
from server.config.web_addresses import PublicUrl
from server.webhooks.retry_schedule import WebhookOptions
from server.webhooks.webhook_events import WaitMessage
from server.wire_formats import encode_event

MAX_EVENT = 128 * 1024
"""Bytes. A larger event is left out of the body; the receiver gets it from the snapshot."""
WAITING = "generation.waiting"


def end_id(generation: str) -> str:
    """The `webhook-id` of the message about a generation's end."""
    return "msg_" + generation.partition("_")[2]


def wait_id(generation: str, position: int) -> str:
    """The `webhook-id` of the message about the wait that began at this position of the log."""
    return f"{end_id(generation)}_{position}"


def end_body(generation: str, conversation: str, event: Event, public: PublicUrl) -> bytes:
    """The JSON body. `event` is the terminal event, as every transport sends it.

    `snapshot` is an absolute URL where the server knows its own address: a receiver made no request, so it has no
    base to resolve a path against.
    """
    encoded = encode_event(event)
    return msgspec.json.encode(
        {
            "type": event.type,
            "timestamp": event.at,
            "data": {
                "generation": generation,
                "conversation": conversation,
                "position": event.position,
                "event": msgspec.Raw(encoded) if len(encoded) <= MAX_EVENT else None,
                "snapshot": public.url(f"/v1/generations/{generation}"),
            },
        }
    )


def wait_body(generation: str, conversation: str, wait: WaitMessage, public: PublicUrl) -> bytes:
    """The JSON body of a message about a wait: for whom, and no arguments of a call.

    Whoever decides has to look at the arguments first, and needs a credential for that: `url` and `snapshot` say
    where they are.
    """
    address = public.url(f"/v1/generations/{generation}")
    calls = [{"call": one.call, "name": one.name, "expires_at": one.expires_at} for one in wait.calls]
    return msgspec.json.encode(
        {
            "type": WAITING,
            "timestamp": wait.since,
            "data": {
                "generation": generation,
                "conversation": conversation,
                "position": wait.position,
                "waiting_for": wait.waiting_for,
                "calls": calls,
                **({"budget": wait.budget} if wait.budget is not None else {}),
                "url": address,
                "snapshot": address,
            },
        }
    )


def headers(options: WebhookOptions, message: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """The headers of a try of the message with this id that is made at `at` (UTC)."""
    signatures = []
    if options.secret is not None:
        signatures.append(Webhook(options.secret.get_secret_value()).sign(message, at, body.decode()))
    content = f"{message}.{int(at.timestamp())}.".encode() + body
    signatures += [f"v1a,{base64.b64encode(key.sign(content)).decode()}" for key in options.keys]
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
