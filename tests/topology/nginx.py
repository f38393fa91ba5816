"""The real nginx on THE configuration of deploy/nginx, with only addresses and paths replaced."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness import credentials_in_logs
from tests.harness.servers import ROOT, free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
NO_NGINX = "Debian's package nginx is not installed (tools/test-needs)"
SOURCE = ROOT / "deploy" / "nginx"
START_SECONDS = 20.0


class Nginx:
    """nginx in front of servers; it runs until `close`. `changed`: what else of tokentape.conf is another."""

    def __init__(self, server_ports: Sequence[int], changed: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="tokentape-nginx-"))
        first, second = server_ports
        self._install(
            "tokentape.conf",
            {
                # Docker's DNS, and with it `resolve`, which needs a newer nginx than Debian's.
                "resolver 127.0.0.11 valid=2s ipv6=off;": "",
                "server-1:8000 resolve": f"127.0.0.1:{first}",
                "server-2:8000 resolve": f"127.0.0.1:{second}",
                "listen 8080;": f"listen 127.0.0.1:{self.port};",
                **(changed or {}),
            },
        )
        paths = ("nginx.pid", "client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        moved = {f"/tmp/{path};": f"{self._folder}/{path};" for path in paths}
        self._install("nginx.conf", {**moved, "/dev/stdout": f"{self._folder}/access.log"})
        self._errors = (self._folder / "error.log").open("wb")
        self._process = self._start()

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self._folder

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def _install(self, name: str, replaced: Mapping[str, str]) -> None:
        text = (SOURCE / name).read_text(encoding="utf-8")
        for old, new in replaced.items():
            assert text.count(old) == 1, f"{name} has no single {old!r}"
            text = text.replace(old, new)
        (self._folder / name).write_text(text, encoding="utf-8")

    def _start(self) -> "subprocess.Popen[bytes]":
        # As root the workers would become a user who may not enter the private folder.
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        process = subprocess.Popen(
            [str(NGINX), "-c", str(self._folder / "nginx.conf"), "-g", directives], stderr=self._errors
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return process
            except OSError:
                assert process.poll() is None, self.errors()
                assert time.monotonic() < deadline, self.errors()
                time.sleep(0.02)

    def reload(self) -> None:
        """`nginx -s reload`: new workers, and the old ones end."""
        self._process.send_signal(signal.SIGHUP)

    def workers(self) -> set[int]:
        """The process ids of all workers, old ones too."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return {int(pid) for pid in path.read_text(encoding="ascii").split()}

    def requests(self) -> list[dict[str, Any]]:
        """Its access log: one record a request that has ended."""
        lines = (self._folder / "access.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def errors(self) -> str:
        """Its error log."""
        return (self._folder / "error.log").read_text(encoding="utf-8")

    def check_logs(self) -> None:
        """Fails if a line of either log holds a credential."""
        access = (self._folder / "access.log").read_text(encoding="utf-8")
        credentials_in_logs.check(access + self.errors(), "nginx's logs")

    def close(self) -> None:
        """Ends it, and checks its logs."""
        self._process.terminate()
        self._process.wait(30)
        self.check_logs()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)
