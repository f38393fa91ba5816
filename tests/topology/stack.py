"""compose.yaml's services as processes: database, migration, two servers, nginx; brought up in its order."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import trio

from tests.harness.http import http_client
from tests.harness.processes import start
from tests.harness.servers import ROOT, Server, free_port

from . import composed, passwords
from .nginx import Nginx
from .postgres import PasswordPostgres

STOP_SECONDS = "3"  # 20 in compose.yaml


@dataclass(frozen=True, eq=False)
class Stack:
    """All of it. `app_url` is the servers' database address, `names` what a person put into .env.

    `run_keys` is `docker compose run first-key …`, and without words what `docker compose up` does with that
    service: its output and its log.
    """

    names: dict[str, str]
    postgres: PasswordPostgres
    app_url: str
    servers: tuple[Server, Server]
    nginx: Nginx
    run_keys: Callable[..., tuple[str, str]]

    @property
    def url(self) -> str:
        """nginx: where clients ask."""
        return self.nginx.url

    async def mend(self) -> None:
        """Starts the servers that do not run, and again those that a failed test left half stopped."""
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(_ensure_running, server)


@contextmanager
def stack(folder: Path, bin_dir: Path, more_names: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Up and ready; ended with the context. `more_names`: what else is in .env.

    No key is made, so most tests need none: the servers listen on this machine alone.
    """
    names = {**passwords.example_env_values(), "TOKENTAPE_ALLOWED_HOSTS": "chat.example.org", **(more_names or {})}
    services = composed.read(names)["services"]
    with ExitStack() as ends:
        postgres = PasswordPostgres(folder, bin_dir, services["db"]["environment"]["POSTGRES_PASSWORD"])
        ends.callback(postgres.close)
        _run_init_script(postgres, services["db"])
        _run_once(postgres, services["migrate"])
        first, second = (_server(postgres, services[name]) for name in ("server-1", "server-2"))
        for server in (first, second):
            ends.callback(_end, server)
        app_url = first.env["TOKENTAPE_DATABASE_URL"]
        nginx = Nginx((first.port, second.port))
        ends.callback(nginx.close)
        run_keys = partial(_run_once, postgres, services["first-key"])
        made = Stack(names, postgres, app_url, (first, second), nginx, run_keys)
        trio.run(made.mend)
        yield made
        for server in made.servers:
            server.check_log()


def _run_init_script(postgres: PasswordPostgres, db: dict[str, Any]) -> None:
    """What the image does with a file in /docker-entrypoint-initdb.d."""
    mounts = [volume.split(":") for volume in db["volumes"]]
    (script,) = (mount[0] for mount in mounts if mount[1].startswith("/docker-entrypoint-initdb.d/"))
    done = postgres.psql(postgres.superuser_url, file=ROOT / script, env=db["environment"])
    assert done.returncode == 0, done.stderr


def _run_once(postgres: PasswordPostgres, service: dict[str, Any], *command: str) -> tuple[str, str]:
    """A service that does its work and ends. What it wrote to standard output and to standard error."""
    env = {**_environment_of_host(), **_environment(postgres, service)}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        words = ["server", *(command or service["command"])]
        process = start(words, env=env, stdout=output.fileno(), stderr=errors.fileno())
        status = process.wait(60)
        said, complaints = (os.pread(file.fileno(), 1_000_000, 0).decode() for file in (output, errors))
    assert status == 0, complaints
    return said, complaints


def _server(postgres: PasswordPostgres, service: dict[str, Any]) -> Server:
    env = {**_environment(postgres, service), "TOKENTAPE_STOP_TIMEOUT": STOP_SECONDS}
    return Server(None, env, free_port())


def _environment(postgres: PasswordPostgres, service: dict[str, Any]) -> dict[str, str]:
    env: dict[str, str] = service["environment"]
    return {
        name: postgres.here(value) if value.startswith("postgresql:") else value for name, value in env.items()
    }


def _environment_of_host() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TOKENTAPE_", "OPENAI_"))}


async def _ensure_running(server: Server) -> None:
    if server.process is not None and server.process.poll() is None:
        async with http_client() as client:
            with suppress(httpx2.TransportError), trio.move_on_after(5):
                if (await client.get(f"{server.url}/readyz")).status_code == 200:
                    return
        await server.kill()
    await server.start()


def _end(server: Server) -> None:
    if server.process is not None:
        server.process.kill()
        server.process.wait()
    server.log.close()
