"""Observes a server process from outside: its sockets, tasks, open streams and memory.

A connection is identified first by its client's port, then by the inode of the server's socket. After a reset
the kernel forgets the ports, but a descriptor that the server still holds keeps the inode in `/proc`.
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
from tests.harness.databases import TEMPLATE, Postgres
from tests.harness.servers import Server, free_port

DATABASE_TASK = "trio_asyncio.BaseTrioEventLoop._io_task"
PROGRAM = ("tests.http_conformance.reporting_server", "serve")
SECONDS = 10.0


class Probe:
    """One running server process."""

    def __init__(self, server: Server, tasks_file: Path) -> None:
        self.server = server
        self._tasks_file = tasks_file

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.server.process is not None
        return self.server.process.pid

    @property
    def port(self) -> int:
        """The TCP port the server listens on."""
        return self.server.port

    def descriptors(self) -> set[int]:
        """Inodes of all sockets that the process holds open."""
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
        """Number of open descriptors of any kind."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connections(self) -> dict[int, int]:
        """Inodes of the server's sockets by client port, as the kernel lists them; 0 if not yet accepted."""
        return {client_port: int(fields[9]) for client_port, fields in self._table()}

    def waits_to_send(self, client_port: int) -> bool:
        """Whether the kernel holds bytes of the server that this client does not accept."""
        return any(int(fields[4].split(":")[0], 16) > 0 for port, fields in self._table() if port == client_port)

    def _table(self) -> list[tuple[int, list[str]]]:
        """Lines of the server's connections in `/proc/net/tcp`, each with its client's port."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        mine = [line for line in lines if int(line[1].rpartition(":")[2], 16) == self.port and line[3] not in OVER]
        return [(int(line[2].rpartition(":")[2], 16), line) for line in mine]

    def forgotten(self) -> set[int]:
        """Sockets that the process still holds although the kernel lists no connection for them."""
        listed = set()
        for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)):
            path = Path("/proc/net") / table
            if path.exists():
                listed |= {int(line.split()[column]) for line in path.read_text().splitlines()[1:]}
        return self.descriptors() - listed

    async def inode(self, client_port: int) -> int:
        """Waits until the server has accepted that client's connection. Returns the inode of its socket."""
        with trio.fail_after(SECONDS):
            while not (inode := self.connections().get(client_port, 0)):
                await trio.sleep(0.01)
        return inode

    async def tasks(self) -> Counter[str]:
        """Names of the server's trio tasks, with the number of each.

        Those of connections to the database are left out: the pool opens one when it needs it, and keeps it.
        """
        self._tasks_file.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        with trio.fail_after(SECONDS):
            while not self._tasks_file.exists():
                await trio.sleep(0.01)
        tasks = Counter[str](json.loads(self._tasks_file.read_text()))
        del tasks[DATABASE_TASK]
        return tasks

    async def metrics(self) -> dict[str, float]:
        """All samples of `/metrics`, by name with labels."""
        async with await Connection.open(self.port) as connection:
            head = await connection.ask("GET", "/metrics", {"Connection": "close"})
            assert head.status == 200, head
            lines = (await connection.body()).decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    async def readers(self) -> dict[str, int]:
        """Number of open streams by transport; transports without any are left out."""
        start, end = 'tokentape_readers{transport="', '"}'
        return {
            name.removeprefix(start).removesuffix(end): int(value)
            for name, value in (await self.metrics()).items()
            if name.startswith(start) and value
        }

    def memory(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """Highest resident memory in bytes since the last `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Starts the measurement of `peak` anew (`clear_refs` in proc(5))."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)

    async def check_answers(self, stream: str) -> None:
        """Checks that a new request is answered and that a new stream starts. `stream` is a path."""
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
    """Waits until the condition holds. Returns whether it did in time."""
    with trio.move_on_after(seconds):
        while not true():
            await trio.sleep(0.02)
        return True
    return true()


@contextmanager
def probed(
    postgres: Postgres,
    folder: Path,
    env: Mapping[str, str],
    *,
    address: str = "127.0.0.1",
    template: str = TEMPLATE,
) -> Iterator[Probe]:
    """Starts a server with its own database, a clone of `template`, outside of any test's trio run, and kills
    it at the end.
    """
    tasks_file = folder / "tasks.json"
    port = free_port()
    env = {
        "TOKENTAPE_ALLOW_ANONYMOUS": "1",
        **env,
        "TOKENTAPE_BIND": f"{address}:{port}",
        "EDGE_TASKS": str(tasks_file),
    }
    with postgres.clone(template) as database:
        server = Server(database.app_url, env, port, arguments=PROGRAM)
        try:
            trio.run(server.start)
            yield Probe(server, tasks_file)
            server.check_log()
        finally:
            if server.process is not None:
                server.process.kill()
                server.process.wait()
            server.log.close()
