"""Stands for a Tokentape server: a process that acquires the embedded PostgreSQL and waits for an order.

Arguments: the data folder, and PostgreSQL's settings as JSON. It prints one JSON object a line: {"progress": ...},
then {"held": ...} or {"refused": ...}. On the input line "release" it releases PostgreSQL and prints
{"released": true}. At the end of its input it ends without releasing. It must not import pytest: it also runs on
the machine's own Python.
"""

import json
import os
import socket
import sys
from pathlib import Path

from server.embedded_postgres import EmbeddedError, acquire


def report(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def main(data_dir: Path, settings: dict[str, str]) -> None:
    # As in a server: a socket and a pipe that PostgreSQL must not inherit.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        for end in os.pipe():
            os.set_inheritable(end, True)
        try:
            held = acquire(data_dir, progress=lambda text: report(progress=text), settings=settings)
        except EmbeddedError as refusal:
            report(refused=str(refusal))
            return
        names = ("pid", "app_url", "superuser_url", "bin_dir", "data_dir")
        report(held={name: str(getattr(held, name)) for name in names} | {"port": listener.getsockname()[1]})
        if sys.stdin.readline().strip() == "release":
            held.release()
            held.release()
            report(released=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
