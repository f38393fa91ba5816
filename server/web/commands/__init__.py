"""Commands: request bodies checked, carried out, and answered; the same by POST and by WebSocket."""
