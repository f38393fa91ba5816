"""What this server's connections offer an app beyond ASGI 3; here, because neither side imports the other."""

SEND_TEXTS = "tokentape.websocket.send_texts"
"""The extension of a WebSocket's scope: `scope["extensions"][SEND_TEXTS]["send"]` is an async function.

It takes an iterable of texts and sends each as a message, many in one write. ASGI's own way, one `send` for each
message, takes five times as long. The app may call it between its accept and its close. It waits like `send`.
"""
