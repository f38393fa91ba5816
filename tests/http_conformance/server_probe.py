"""A server process seen from outside: its sockets, tasks, stream places, memory, and whether it answers as before.

A connection of the server is known by its client's port, and then by the inode of the server's socket: after a
reset the kernel forgets the ports, but a descriptor that the server still holds keeps the inode in `/proc`.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.clients.http1 import Connection
from tests.harness.databases import Postgres
from tests.harness.servers import Server, free_port

PROGRAM = ("tests.http_conformance.reporting_server", "serve")
SECONDS = 10.0


class Probe:
    """One running server."""

    def __init__(self, server: Server, tasks_file: Path) -> None:
        self.server = server
        self._tasks_file = tasks_file

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.server.process is not None
        return self.server.process.pid

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    def descriptors(self) -> set[int]:
        """The inodes of all sockets that the process holds open."""
        found = set()
        folder = f"/proc/{self.pid}/fd"
        for name in os.listdir(folder):
            try:
                target = os.readlink(f"{folder}/{name}")
            except FileNotFoundError:
                continue  # closed since the folder was listed
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
        return found

    def files(self) -> int:
        """How many descriptors of any kind it holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connections(self) -> dict[int, int]:
        """What the kernel knows: inodes by the client's port, 0 for what is not accepted yet."""
        return {client_port: int(fields[9]) for client_port, fields in self._table()}

    def waits_to_send(self, client_port: int) -> bool:
        """Whether the kernel holds bytes of the server that this client's kernel does not take."""
        return any(int(fields[4].split(":")[0], 16) > 0 for port, fields in self._table() if port == client_port)

    def _table(self) -> list[tuple[int, list[str]]]:
        """The lines of the server's connections in `/proc/net/tcp`, each behind its client's port."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        mine = [line for line in lines if int(line[1].rpartition(":")[2], 16) == self.port and line[3] not in OVER]
        return [(int(line[2].rpartition(":")[2], 16), line) for line in mine]

    def forgotten(self) -> set[int]:
        """Sockets that the process holds though their connection is gone: the kernel lists them nowhere."""
        listed = set()
        for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)):
            path = Path("/proc/net") / table
            if path.exists():
                listed |= {int(line.split()[column]) for line in path.read_text().splitlines()[1:]}
        return self.descriptors() - listed

    async def inode(self, client_port: int) -> int:
        """The server's socket of that client's connection, once it is accepted."""
        with trio.fail_after(SECONDS):
            while not (inode := self.connections().get(client_port, 0)):
                await trio.sleep(0.01)
        return inode

    async def tasks(self) -> Counter[str]:
        """The names of its trio tasks, and how many there are of each."""
        self._tasks_file.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        with trio.fail_after(SECONDS):
            while not self._tasks_file.exists():
                await trio.sleep(0.01)
        return Counter(json.loads(self._tasks_file.read_text()))

    async def metrics(self) -> dict[str, float]:
        """All samples of `/metrics`, by name with labels."""
        async with await Connection.open(self.port) as connection:
            head = await connection.ask("GET", "/metrics", {"Connection": "close"})
            assert head.status == 200, head
            lines = (await connection.body()).decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    async def readers(self) -> dict[str, int]:
        """Stream places that are taken, by transport; those with none are left out."""
        start, end = 'tokentape_readers{transport="', '"}'
        return {
            name.removeprefix(start).removesuffix(end): int(value)
            for name, value in (await self.metrics()).items()
            if name.startswith(start) and value
        }

    def memory(self) -> int:
        """Bytes of resident memory."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most bytes of resident memory since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """From now on `peak` counts anew (`clear_refs` in proc(5))."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)

    async def check_answers(self, stream: str) -> None:
        """A fresh request is answered, and a fresh stream begins and ends; `stream` is a path below `/v1`."""
        with trio.fail_after(SECONDS):
            async with await Connection.open(self.port) as connection:
                for target in ("/healthz", "/readyz"):
                    assert (await connection.ask("GET", target)).status == 200
                    await connection.body()
                assert (await connection.ask("GET", f"{stream}/events?format=sse")).status == 200
                assert await connection.receive()


OVER = ("06", "0A")
"""In `/proc/net/tcp`: TIME_WAIT, which no process holds, and LISTEN, which is no connection."""


async def wait_until(true: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Waits for a state; whether it came in time."""
    with trio.move_on_after(seconds):
        while not true():
            await trio.sleep(0.02)
        return True
    return true()


@contextmanager
def probed(
    postgres: Postgres, folder: Path, env: Mapping[str, str], *, address: str = "127.0.0.1"
) -> Iterator[Probe]:
    """A server with a database of its own, started and ended outside of any test's trio."""
    tasks_file = folder / "tasks.json"
    port = free_port()
    env = {**env, "TOKENTAPE_BIND": f"{address}:{port}", "EDGE_TASKS": str(tasks_file)}
    with postgres.clone() as database:
        server = Server(database.app_url, env, port, arguments=PROGRAM)
        try:
            trio.run(server.start)
            yield Probe(server, tasks_file)
        finally:
            if server.process is not None:
                server.process.kill()
                server.process.wait()
            server.log.close()
