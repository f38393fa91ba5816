"""`python -m server` is `tokentape`."""

from server.cli import main

main()
