"""PostgreSQL as its official image runs it: logins by password over TCP, set up by an init script with psql.

Not the embedded one: that lets its own roles in without a password. Only its programs are used.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from server.embedded_postgres.os_user import postgres_os_user
from tests.harness.servers import free_port

START_SECONDS = 30.0


class PasswordPostgres:
    """One cluster in `folder` (not made yet). `psql` asks it as whoever a URL names."""

    def __init__(
        self, folder: Path, bin_dir: Path, password: str, *, auth: str = "scram-sha-256", log: str = "all"
    ) -> None:
        """`password`: the superuser's. `auth` is as in `initdb --auth`, `log` as in `log_statement`."""
        self.port = free_port()
        self._folder = folder
        self._bin = bin_dir
        self._log_statement = log
        self._account = postgres_os_user()
        self._process: subprocess.Popen[str] | None = None
        self.superuser_url = f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres"
        folder.mkdir(mode=0o700)
        if self._account.separate:
            os.chown(folder, self._account.uid, self._account.gid)
        password_file = folder / "password"
        password_file.write_text(password, encoding="ascii")
        if self._account.separate:
            os.chown(password_file, self._account.uid, self._account.gid)
        words = ["--username=postgres", f"--pwfile={password_file}", f"--auth={auth}", "--no-sync"]
        made = self._account.run([bin_dir / "initdb", *words, f"--pgdata={folder / 'data'}"])
        assert made.returncode == 0, made.stderr
        self.start()

    def start(self) -> None:
        """Starts it and waits until it takes logins."""
        with (self._folder / "log").open("ab") as log:
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(self.port),
                "unix_socket_directories": "",
                "fsync": "off",
                "log_statement": self._log_statement,
            }
            words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
            argv: list[str | Path] = [self._bin / "postgres", "-D", self._folder / "data", *words]
            self._process = self._account.popen(argv, log=log.fileno())
        deadline = time.monotonic() + START_SECONDS
        while self.psql(self.superuser_url, "SELECT 1").returncode != 0:
            assert self._process.poll() is None, self.logged()
            assert time.monotonic() < deadline, self.logged()
            time.sleep(0.02)

    def stop(self) -> None:
        """A planned stop: every session is ended (the image's STOPSIGNAL is SIGINT too)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        self._process = None

    def psql(
        self,
        url: str,
        statement: str | None = None,
        *,
        file: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """A statement, or a file, as the user in `url`; the exit status is the caller's to judge."""
        what = ["-c", statement] if statement is not None else ["-f", str(file)]
        clean = {"PATH": os.environ["PATH"], "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C"}
        return subprocess.run(
            [self._bin / "psql", "-XAtq", "-v", "VERBOSITY=verbose", *what, url],
            capture_output=True,
            text=True,
            env={**clean, **(env or {})},
            timeout=60,
            check=False,
        )

    def run(self, argv: Sequence[str], data: bytes) -> bytes:
        """A program of PostgreSQL's, as in its container: the superuser reaches the server without a word."""
        place = urlsplit(self.superuser_url)
        env = {"PATH": os.environ["PATH"], "PGHOST": "127.0.0.1", "PGPORT": str(self.port)}
        done = subprocess.run(
            [self._bin / argv[0], *argv[1:]],
            input=data,
            env={**env, "PGPASSWORD": place.password or ""},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def here(self, url: str) -> str:
        """The same URL with this server's address in place of the compose file's `db:5432`."""
        assert urlsplit(url).netloc.endswith("@db:5432"), "compose.yaml names another host"
        return url.replace("@db:5432/", f"@127.0.0.1:{self.port}/")

    def logged(self) -> str:
        """All it has written."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Ends it and removes everything."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
