"""A server in miniature, run as a process of its own: acquires the embedded PostgreSQL and waits to be told more.

Arguments: the data folder, PostgreSQL's settings as JSON. Says one JSON object a line: {"progress": ...}, then
{"held": ...} or {"refused": ...}. Reads a line: "release" makes it release and say {"released": true}; the end of
input makes it end holding what it holds. Must stay free of pytest: it also runs on the machine's own Python.
"""

import json
import os
import socket
import sys
from pathlib import Path

from server.embedded import EmbeddedError, acquire


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    # As a server would: a socket and a pipe that a careless launch hands down to PostgreSQL.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        for end in os.pipe():
            os.set_inheritable(end, True)
        hold(Path(sys.argv[1]), json.loads(sys.argv[2]), listener.getsockname()[1])


def hold(data_dir: Path, settings: dict[str, str], port: int) -> None:
    try:
        held = acquire(data_dir, progress=lambda text: say(progress=text), settings=settings)
    except EmbeddedError as refusal:
        say(refused=str(refusal))
        return
    say(
        held={
            "pid": held.pid,
            "app_url": held.app_url,
            "superuser_url": held.superuser_url,
            "bin_dir": str(held.bin_dir),
            "data_dir": str(held.data_dir),
            "port": port,
        }
    )
    if sys.stdin.readline().strip() == "release":
        held.release()
        held.release()
        say(released=True)


if __name__ == "__main__":
    main()
