"""`python -m bench`: all benchmarks on a PostgreSQL of their own (fsync on), printed as a table."""

import secrets
import shutil
import tempfile
from pathlib import Path

import trio

import migrations
from bench.append import measure
from server.embedded import acquire


def main() -> None:
    """Runs everything once."""
    folder = Path(tempfile.gettempdir()) / f"tokentape-bench-{secrets.token_hex(4)}"
    held = acquire(folder, progress=print)
    try:
        trio.run(lambda: migrations.upgrade(held.owner_url, app_role="tokentape_app"))
        for line in trio.run(measure, held.app_url, held.owner_url):
            print(line)
    finally:
        held.release()
        shutil.rmtree(folder)


main()
