"""The command `tokentape`: one file a subcommand. It prints; nobody else does."""

from server.cli.main import main

__all__ = ["main"]
