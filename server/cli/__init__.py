"""The command `tokentape`, one file for each subcommand. Printing is done here and nowhere else in `server`."""

from server.cli.main import main

__all__ = ["main"]
