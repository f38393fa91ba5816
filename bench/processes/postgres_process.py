"""Runs a PostgreSQL for the benchmarks alone, fsync on: `python -m bench.processes.postgres_process FOLDER`.

It is a process of its own, so that the database stops and its folder is deleted however the benchmark ends. It
sends the database's URLs; on `{"do": "restart"}` it restarts PostgreSQL (cold buffers) and sends the new process
id.
"""

import shutil
import sys
from pathlib import Path

from bench.processes import control_channel
from server.embedded_postgres import acquire, restart


def main(folder: Path) -> None:
    """Runs PostgreSQL in `folder` until the input ends, then deletes the folder."""
    postgres = acquire(folder, progress=lambda what: control_channel.send(doing=what))
    try:
        control_channel.send(
            app=postgres.app_url,
            owner=postgres.owner_url,
            superuser=postgres.superuser_url,
            bin=str(postgres.bin_dir),
            pid=postgres.pid,
        )
        for _ in control_channel.commands():
            restart(postgres)
            control_channel.send(pid=postgres.pid)
    finally:
        postgres.release()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    control_channel.prepare()
    main(Path(sys.argv[1]))
