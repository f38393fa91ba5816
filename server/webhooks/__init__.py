"""Webhooks: a signed POST tells a receiver that a generation has ended, until the receiver takes it.

Signed by Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks). Each webhook has a stream of
its own in the event store and a fenced writer, so another process can go on with it. `webhooks` holds all of one
process, `delivery` drives one, `sender` makes one try. None of them knows the web or who runs generations.
"""

from server.webhooks.delivery import WebhookOptions
from server.webhooks.sender import Sender
from server.webhooks.webhook_events import Try, WebhookSnapshot, is_webhook
from server.webhooks.webhooks import Webhooks

__all__ = ["Sender", "Try", "WebhookOptions", "WebhookSnapshot", "Webhooks", "is_webhook"]
