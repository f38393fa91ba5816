"""Holds a PostgreSQL of the benchmark's own, fsync on: `python -m bench.processes.keeper FOLDER`.

A process of its own, so that the database goes down and its folder away however the benchmark ends. Says its
addresses; on `{"do": "restart"}` it restarts it (cold buffers).
"""

import os
import shutil
import sys
from pathlib import Path

from bench.processes import control
from server.embedded import acquire, restart


def main(folder: Path) -> None:
    """Until the input ends."""
    held = acquire(folder, progress=lambda what: control.say(doing=what))
    try:
        control.say(
            app=held.app_url,
            owner=held.owner_url,
            superuser=held.superuser_url,
            bin=str(held.bin_dir),
            pid=held.pid,
        )
        told = bytearray()
        while data := os.read(0, 65_536):
            told += data
            for _ in control.lines(told):
                restart(held)
                control.say(pid=held.pid)
    finally:
        held.release()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    control.begin()
    main(Path(sys.argv[1]))
