"""What `server.runtime.command_handlers` is made of: keyed appends, requests, and files of messages."""
