"""Tests of server/webhooks: delivery, retries, takeover by another process, and addresses that are refused."""
