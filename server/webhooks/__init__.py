"""Webhooks: a receiver is told of a generation's end by a signed POST, again and again until it takes it.

Signed by https://github.com/standard-webhooks/standard-webhooks. A webhook is a stream of its own in the event
store, written by a fenced writer, so it outlives its process. The room must not know the web, nor who runs
generations.
"""

from server.webhooks.options import WebhookOptions
from server.webhooks.sender import Sender
from server.webhooks.webhook_events import Try, WebhookSnapshot, is_webhook
from server.webhooks.webhooks import Webhooks

__all__ = ["Sender", "Try", "WebhookOptions", "WebhookSnapshot", "Webhooks", "is_webhook"]
