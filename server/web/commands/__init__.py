"""Commands: request bodies checked and carried out, with the same response by POST and by WebSocket."""
