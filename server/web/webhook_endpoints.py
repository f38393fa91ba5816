"""The endpoints of webhooks: how a generation's webhook stands, and the public keys that check signatures.

Owns what of a webhook clients are shown: its target as far as that may be known, and each try. Must not know how
webhooks are delivered or signed.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from server.problem import not_found
from server.runtime.conversation_service import ConversationService
from server.web.edge.http_messages import JSON, Endpoint, Headers, PlainRequest, PlainResponse
from server.web.snapshots import snapshot_json

_HEADERS: Headers = [(b"cache-control", b"private, no-cache"), (b"content-type", JSON.encode())]


class WebhookPublicKeys(msgspec.Struct, frozen=True):
    """The keys by which receivers check the `v1a` signatures of this server's webhooks."""

    public_keys: Annotated[
        list[str],
        Meta(
            description="`whpk_` and the base64 of an Ed25519 public key each. All of them sign: there are two "
            "while the operator changes the key. Empty where the server signs with a secret alone."
        ),
    ]


def webhook_endpoints(runtime: ConversationService) -> Mapping[str, Endpoint]:
    """The endpoints, by the rules of their addresses."""

    async def webhook(_request: PlainRequest, name: str) -> PlainResponse:
        await runtime.place(name)  # 404 for a generation whose request was refused: nobody may see its webhook
        found = await runtime.webhooks.snapshot(name)
        if found is None:
            raise not_found("webhook of this generation")
        return PlainResponse(200, _HEADERS, snapshot_json.encode(found))

    async def public_key(_request: PlainRequest) -> PlainResponse:
        keys = [key.public_text for key in runtime.webhooks.options.keys]
        return PlainResponse(200, _HEADERS, snapshot_json.encode(WebhookPublicKeys(keys)))

    return {"/v1/generations/<name>/webhook": webhook, "/v1/webhooks/public-key": public_key}
