"""Webhooks: signed POSTs tell a receiver that a generation waits or has ended, until the receiver takes them.

Signed by Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks). Each webhook has a stream of
its own in the event store and a fenced writer, so another process can go on with it. `webhooks` holds all of one
process, `delivery` drives one, `wait_messages` its messages about waits, `sender` makes one try. None of them
knows the web or who runs generations.
"""

from server.webhooks.retry_schedule import WebhookOptions
from server.webhooks.sender import Sender
from server.webhooks.webhook_events import Try, WebhookSnapshot, is_webhook
from server.webhooks.webhooks import Webhooks

__all__ = ["Sender", "Try", "WebhookOptions", "WebhookSnapshot", "Webhooks", "is_webhook"]
