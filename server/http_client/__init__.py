"""HTTP/1.1 requests that this server sends: URL, proxy, connection, request and response, server-sent events.

Whatever calls out uses it: model providers, webhooks, the load test. It must not know whom it calls or what a body
means, and its errors say what the network did, not what that means to the caller.
"""
